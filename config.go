package intercept

import (
	"encoding/json"
	"errors"
	"net/netip"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Config says which of a pod's connections go through its proxy, and who the
// proxy is. It is plain data: fill it in, hand it to [Compile].
//
// The zero Config is not valid; start from [Default] and change what differs.
// docs/policy.md gives the fate of every packet under a Config, line by line.
type Config struct {
	Proxy    Proxy    `json:"proxy" yaml:"proxy"`
	Outbound Outbound `json:"outbound" yaml:"outbound"`
	Inbound  Inbound  `json:"inbound" yaml:"inbound"`
	DNS      DNS      `json:"dns" yaml:"dns"`

	// TunnelPort is the port on which proxies talk to each other inside their
	// own encryption. Inbound connections to it are never captured, and the
	// proxy's own calls to it inside the pod are left alone. Zero: there is none.
	TunnelPort uint16 `json:"tunnelPort" yaml:"tunnelPort"`

	// ExcludeInterfaces names network interfaces whose traffic is left alone,
	// in and out. A trailing `*` stands for any ending (`net*`). Names are at
	// most 15 bytes (IFNAMSIZ in linux/if.h, less the final zero).
	ExcludeInterfaces []string `json:"excludeInterfaces" yaml:"excludeInterfaces"`

	// Loopback is the part of the loopback network in which nothing is ever
	// captured: not the application's connections, nor the proxy's. It has to
	// cover 127.0.0.1 and ::1 and may be widened up to 127.0.0.0/8.
	Loopback CIDRs `json:"loopback" yaml:"loopback"`

	// PassthroughSources are the source addresses a proxy binds when it dials
	// the application, so that its own call is not captured again: at most one
	// of each family, on the loopback interface.
	PassthroughSources []netip.Addr `json:"passthroughSources" yaml:"passthroughSources"`

	// VirtualInterfaces names interfaces behind which there is a virtual machine
	// or a container inside the pod (KubeVirt, Docker in Docker), with globs as
	// in ExcludeInterfaces. What arrives by them is outbound: inclusions,
	// exclusions and DNS apply to it, owners do not.
	VirtualInterfaces []string `json:"virtualInterfaces" yaml:"virtualInterfaces"`
	// VirtualNetworks are the networks of such machines and containers themselves: TCP that
	// arrives from there to one of them is inbound, not outbound.
	VirtualNetworks []VirtualNetwork `json:"virtualNetworks" yaml:"virtualNetworks"`

	// Backstop is how far a second look behind NAT goes, for where conntrack is
	// wrong about a connection.
	Backstop Backstop `json:"backstop" yaml:"backstop"`

	// Families selects the address families that are captured.
	Families Families `json:"families" yaml:"families"`
	// OtherFamily says what happens to what would be captured if it were not of
	// the family that Families leaves out. Rejected, it cannot go past the proxy.
	OtherFamily Treatment `json:"otherFamily" yaml:"otherFamily"`
}

// Proxy is the identity of the sidecar: a packet is "from the proxy" if its
// socket's user is one of UIDs, its group is one of GIDs, or its mark is Mark.
// Any suffices, and at least one must be given: without it the proxy's own
// connections would come back to it for ever.
type Proxy struct {
	UIDs IDs `json:"uids" yaml:"uids"`
	GIDs IDs `json:"gids" yaml:"gids"`

	// Mark is what the proxy sets on its sockets with SO_MARK (socket(7)), which
	// takes CAP_NET_ADMIN or, since Linux 5.17, CAP_NET_RAW: an application
	// without them cannot pass for the proxy. The zero Mark is none.
	Mark Mark `json:"mark" yaml:"mark"`

	// AllowRoot permits 0 among UIDs and GIDs. Every process of the pod that
	// runs as root then escapes interception.
	AllowRoot bool `json:"allowRoot" yaml:"allowRoot"`
}

// Outbound says which connections of the pod's processes go to the proxy.
type Outbound struct {
	// Port is where the proxy accepts outbound connections. A range spreads new
	// connections over its ports; the proxy then has to listen on all of them.
	Port PortRange `json:"port" yaml:"port"`
	// Target is where the proxy is if it is not in the pod, at most one of each
	// family. Connections are then sent there and not to Port. The proxy learns
	// no original destination from the kernel.
	Target []netip.AddrPort `json:"target" yaml:"target"`

	// IncludeCIDRs are the destinations to capture. [AllCIDRs] captures all,
	// an empty list none.
	IncludeCIDRs CIDRs `json:"includeCIDRs" yaml:"includeCIDRs"`
	// ExcludeCIDRs are destinations left alone, whatever is included. DNS is
	// not exempted by them (use Exclude for that).
	ExcludeCIDRs CIDRs `json:"excludeCIDRs" yaml:"excludeCIDRs"`
	// IncludePorts are destination ports to capture in addition to IncludeCIDRs.
	IncludePorts Ports `json:"includePorts" yaml:"includePorts"`
	// ExcludePorts are destination ports left alone, TCP and UDP.
	ExcludePorts Ports `json:"excludePorts" yaml:"excludePorts"`
	// Exclude holds exclusions that combine several properties.
	Exclude []Exclusion `json:"exclude" yaml:"exclude"`

	// IncludeUIDs and IncludeGIDs, if either is given, restrict capture to
	// the sockets whose user or group is listed. A packet that belongs to no
	// socket is then left alone.
	IncludeUIDs IDs `json:"includeUIDs" yaml:"includeUIDs"`
	IncludeGIDs IDs `json:"includeGIDs" yaml:"includeGIDs"`
	// ExcludeUIDs and ExcludeGIDs are owners whose traffic is left alone, DNS
	// included.
	ExcludeUIDs IDs `json:"excludeUIDs" yaml:"excludeUIDs"`
	ExcludeGIDs IDs `json:"excludeGIDs" yaml:"excludeGIDs"`

	// UDP says what happens to UDP, other than DNS, to destinations to which TCP
	// would be captured. The proxy does not take it.
	UDP Treatment `json:"udp" yaml:"udp"`
	// QUIC says the same of UDP port 443 alone. Rejected, clients fall back to
	// TCP at once.
	QUIC Treatment `json:"quic" yaml:"quic"`
	// OtherProtocols says the same of what is neither TCP nor UDP (SCTP, DCCP,
	// UDP-Lite, raw IP, ICMP echo requests) from those whose TCP would be
	// captured. It takes Backstop [BackstopOn].
	OtherProtocols Treatment `json:"otherProtocols" yaml:"otherProtocols"`
}

// Backstop is how far the second look goes that stands behind NAT (docs/policy.md,
// lines B1 to B11). NAT is asked once for a connection; conntrack can forget one,
// or be told of one before it is there, and what is captured would then leave, or
// arrive, in clear.
type Backstop string

const (
	// BackstopOn looks at every packet.
	BackstopOn Backstop = "on"
	// BackstopSyn looks at the packets that open TCP connections: nothing can be
	// opened past the proxy, but late data of a connection that conntrack has
	// forgotten can leave.
	BackstopSyn Backstop = "syn"
	// BackstopOff looks at none.
	BackstopOff Backstop = "off"
)

// Treatment is what happens to traffic that the proxy does not take.
type Treatment string

const (
	// TreatmentPass lets it pass.
	TreatmentPass Treatment = "pass"
	// TreatmentReject rejects it, and its sender learns at once (ICMP port unreachable).
	TreatmentReject Treatment = "reject"
)

// Exclusion leaves alone the outbound TCP and UDP packets that have all of
// the properties given. A property that is empty matches everything; an
// exclusion with none is refused.
type Exclusion struct {
	// Protocol is TCP or UDP, or zero for both.
	Protocol Protocol `json:"protocol,omitempty" yaml:"protocol,omitempty"`
	CIDRs    CIDRs    `json:"cidrs,omitempty" yaml:"cidrs,omitempty"`
	Ports    Ports    `json:"ports,omitempty" yaml:"ports,omitempty"`
	UIDs     IDs      `json:"uids,omitempty" yaml:"uids,omitempty"`
	GIDs     IDs      `json:"gids,omitempty" yaml:"gids,omitempty"`
}

// Inbound says which connections arriving in the pod go to the proxy.
type Inbound struct {
	Mode InboundMode `json:"mode" yaml:"mode"`
	// Port is where the proxy accepts inbound connections, or a range as for
	// outbound ones.
	Port PortRange `json:"port" yaml:"port"`

	// IncludePorts are the destination ports to capture. [AllPorts] captures
	// all, an empty list none.
	IncludePorts Ports `json:"includePorts" yaml:"includePorts"`
	// ExcludePorts are destination ports left alone, such as those of probes
	// that the proxy answers itself.
	ExcludePorts Ports `json:"excludePorts" yaml:"excludePorts"`
	// ExcludeSources are clients left alone.
	ExcludeSources CIDRs `json:"excludeSources" yaml:"excludeSources"`
	// Exclude holds exclusions that combine clients and ports.
	Exclude []InboundExclusion `json:"exclude" yaml:"exclude"`

	// Hairpin says what happens when the proxy calls its own pod by the pod's
	// address. Mode [InboundOff] leaves that alone.
	Hairpin Hairpin `json:"hairpin" yaml:"hairpin"`

	// CaptureForwarded has connections that the pod forwards for others, as for a
	// container behind it, captured as inbound, too, as far as they are not outbound
	// (VirtualInterfaces). Without it, and without those, they pass.
	CaptureForwarded bool `json:"captureForwarded" yaml:"captureForwarded"`

	// TProxy says how mode [InboundTProxy] tells packets apart. Other modes
	// ignore it.
	TProxy TProxyMarks `json:"tproxy" yaml:"tproxy"`

	// DropInvalid drops arriving packets that conntrack(8) calls INVALID: they
	// belong to no connection it knows and would otherwise reach a socket
	// untranslated, which answers with a reset.
	DropInvalid bool `json:"dropInvalid" yaml:"dropInvalid"`
}

// InboundExclusion leaves alone the inbound connections that have all of the
// properties given. A property that is empty matches everything; an exclusion
// with none is refused.
type InboundExclusion struct {
	Sources CIDRs `json:"sources,omitempty" yaml:"sources,omitempty"`
	Ports   Ports `json:"ports,omitempty" yaml:"ports,omitempty"`
}

// TProxyMarks are the marks and the routing table of mode [InboundTProxy].
type TProxyMarks struct {
	// Mark is set on packets that are delivered to the proxy whatever their
	// destination. A proxy that dials the application from its client's address
	// sets it on its socket; the replies are then brought back to it.
	Mark Mark `json:"mark" yaml:"mark"`
	// SelfMark is set on the proxy's own calls to its pod, and on the
	// connections (conntrack's mark) that it accepts as inbound.
	SelfMark Mark `json:"selfMark" yaml:"selfMark"`
	// Table is the routing table that delivers marked packets to this host.
	Table uint32 `json:"table" yaml:"table"`
}

// DNS says which name lookups (port 53, UDP and TCP) go to the resolver in
// the sidecar. The resolver has to run as the proxy and listen on 127.0.0.1
// and ::1, or answer from the address it was asked at.
type DNS struct {
	Mode DNSMode `json:"mode" yaml:"mode"`
	// Port is where the resolver listens, UDP and TCP.
	Port uint16 `json:"port" yaml:"port"`
	// Target is where the resolver is if it is not in the sidecar, such as a
	// node-local one at a link-local address: at most one of each family.
	// Lookups are then sent there and not to Port. Those to loopback addresses
	// cannot leave the pod and are left alone if Target is outside it.
	Target []netip.AddrPort `json:"target" yaml:"target"`
	// Servers are the name servers whose traffic is captured in mode
	// [DNSResolvConf]; [ParseResolvConf] reads them from a resolv.conf.
	Servers []netip.Addr `json:"servers" yaml:"servers"`
	// TCP has lookups over TCP captured, too. Without it TCP port 53 is a port like
	// any other, and what truncated answers are asked for again goes to the proxy.
	TCP bool `json:"tcp" yaml:"tcp"`
	// Virtual has the lookups captured that come from behind the pod (VirtualInterfaces).
	// They go to Port at the address of the interface, where the resolver has to
	// listen. Without it the pod forwards them.
	Virtual bool `json:"virtual" yaml:"virtual"`
}

// VirtualNetwork is a network behind a virtual interface. Its text form is
// INTERFACE:CIDRS, as in docker0:172.17.0.0/16,fd00:17::/64.
type VirtualNetwork struct {
	// Interface is one of Config.VirtualInterfaces, as it stands there.
	Interface string `json:"interface" yaml:"interface"`
	CIDRs     CIDRs  `json:"cidrs" yaml:"cidrs"`
}

// InboundMode says how inbound connections reach the proxy.
type InboundMode string

const (
	// InboundRedirect rewrites the destination to the proxy's port. The proxy
	// learns the original with getsockopt SO_ORIGINAL_DST.
	InboundRedirect InboundMode = "redirect"
	// InboundTProxy gives connections to the proxy with both addresses
	// unchanged. Its socket has to be transparent (IP_TRANSPARENT, ip(7)).
	InboundTProxy InboundMode = "tproxy"
	// InboundOff leaves inbound traffic alone: an ingress controller.
	InboundOff InboundMode = "off"
)

// Hairpin is what happens to connections that the proxy opens to an address of
// its own pod: what an app sends to a service that turns out to be itself.
type Hairpin string

const (
	// HairpinCapture has them come in as inbound, so that the proxy treats them
	// as those of any client.
	HairpinCapture Hairpin = "capture"
	// HairpinPass leaves them alone: they go straight to the app.
	HairpinPass Hairpin = "pass"
)

// DNSMode says which name servers' traffic is captured.
type DNSMode string

const (
	// DNSOff treats port 53 like any other.
	DNSOff DNSMode = "off"
	// DNSResolvConf captures lookups to DNS.Servers.
	DNSResolvConf DNSMode = "resolvconf"
	// DNSAll captures lookups to any address.
	DNSAll DNSMode = "all"
)

// Families selects address families. The other family is left alone, which is
// a way past the proxy: choose one family only where the other has no address.
type Families string

const (
	// FamiliesAuto captures every family the kernel has.
	FamiliesAuto Families = "auto"
	// FamiliesIPv4 captures IPv4 only.
	FamiliesIPv4 Families = "ipv4"
	// FamiliesIPv6 captures IPv6 only.
	FamiliesIPv6 Families = "ipv6"
	// FamiliesDual captures both and fails where the kernel lacks one.
	FamiliesDual Families = "dual"
)

// Default returns the Config of a sidecar that captures all of a pod's TCP in
// both directions, with the ports Istio's users know. Each call returns a
// fresh value.
func Default() Config {
	return Config{
		Proxy: Proxy{
			UIDs: IDs{ID(1337)},
			GIDs: IDs{ID(1337)},
		},
		Outbound: Outbound{
			Port:         Port(15001),
			IncludeCIDRs: AllCIDRs(),
			UDP:          TreatmentPass,
			QUIC:         TreatmentPass,

			OtherProtocols: TreatmentPass,
		},
		Inbound: Inbound{
			Mode:         InboundRedirect,
			Port:         Port(15006),
			IncludePorts: AllPorts(),
			// The proxy's own statistics, health and metrics.
			ExcludePorts: Ports{Port(15020), Port(15021), Port(15090)},
			Hairpin:      HairpinCapture,
			TProxy: TProxyMarks{
				Mark:     Mark{Value: 1337, Mask: ruleset.AllBits},
				SelfMark: Mark{Value: 1338, Mask: ruleset.AllBits},
				Table:    133,
			},
		},
		DNS:        DNS{Mode: DNSOff, Port: 15053, TCP: true, Virtual: true},
		TunnelPort: 15008,
		Loopback: CIDRs{
			netip.MustParsePrefix("127.0.0.1/32"),
			netip.MustParsePrefix("::1/128"),
		},
		PassthroughSources: []netip.Addr{
			netip.MustParseAddr("127.0.0.6"),
			netip.MustParseAddr("::6"),
		},
		Backstop:    BackstopOn,
		Families:    FamiliesAuto,
		OtherFamily: TreatmentPass,
	}
}

// MarshalJSON writes the Config as `mesh-init --config` reads it. Empty lists
// are written `[]`, never `null`.
func (c Config) MarshalJSON() ([]byte, error) {
	c.ExcludeInterfaces = nonNil(c.ExcludeInterfaces)
	c.PassthroughSources = nonNil(c.PassthroughSources)
	c.Outbound.Exclude = nonNil(c.Outbound.Exclude)
	c.DNS.Servers = nonNil(c.DNS.Servers)
	c.DNS.Target = nonNil(c.DNS.Target)
	c.Outbound.Target = nonNil(c.Outbound.Target)
	c.Inbound.Exclude = nonNil(c.Inbound.Exclude)
	c.VirtualInterfaces = nonNil(c.VirtualInterfaces)
	c.VirtualNetworks = nonNil(c.VirtualNetworks)
	type plain Config // without this method
	return json.Marshal(plain(c))
}

// UnmarshalJSON reads the fields that are there over those of c: a list replaces
// the whole list. It is strict: a field that is unknown or given twice, in
// whatever part of the Config, and a value of the wrong type are errors, and c
// may then hold a part of what was read. The errors joined are of type
// [*FieldError]. Lines count from where the Config begins; one that is written on
// one line has none.
func (c *Config) UnmarshalJSON(b []byte) error { return unmarshalJSON(b, c) }

// UnmarshalYAML is UnmarshalJSON for go.yaml.in/yaml (and gopkg.in/yaml), v2 and v3, with
// which it reads scalars as they are written: off is "off", and 0010 no number.
// They do not tell it lines.
func (c *Config) UnmarshalYAML(unmarshal func(any) error) error { return unmarshalYAML(unmarshal, c) }

func unmarshalJSON(b []byte, target any) error { return fieldErrors(strict.UnmarshalJSON(b, target)) }

func unmarshalYAML(unmarshal func(any) error, target any) error {
	return fieldErrors(strict.UnmarshalYAML(unmarshal, target))
}

// fieldErrors makes FieldErrors of those that a reader finds.
func fieldErrors(err error) error {
	var errs []error
	for _, e := range strict.Flatten(err) {
		if at, ok := errors.AsType[*strict.Error](e); ok {
			e = &FieldError{Field: at.Path, Line: at.Line, Err: at.Err}
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

func nonNil[E any](list []E) []E {
	if list == nil {
		return []E{}
	}
	return list
}

package explain

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Group is the heading of the packet's fields in help.
const Group decode.Group = "The packet to explain; to trace, what is not given can be any"

// Fields are the table of what a packet is described by. They have no place in a configuration.
func Fields() []decode.Field {
	row := func(name, form, initial, usage string) decode.Field {
		return decode.Field{Name: name, Form: form, Group: Group, Initial: initial, Usage: usage}
	}
	return []decode.Field{
		row("from", "app|proxy|outside", "app", "who sends it; outside: it arrives in the pod"),
		row("dst", "ADDRESS:PORT", "", "where it goes, as in 10.1.2.3:443 or [fd00::1]:443"),
		row("src", "ADDRESS[:PORT]", "", "where it comes from"),
		row("proto", "tcp|udp|icmp", "tcp", "its protocol; icmp: an echo request, as ping sends it"),
		row("uid", "ID", "1000", "the app's user"),
		row("gid", "ID", "1000", "the app's group"),
		row("mark", "NUMBER", "0", "the mark of the sender's socket (SO_MARK)"),
		row("interface", "NAME", "",
			"the one it leaves or arrives by; if not given, lo for\na loopback address and with --to-self, else eth0"),
		row(toSelf, "", "false", "the destination is the pod's own address"),
	}
}

// State is one more of these fields, for those who follow the rules and not a kernel.
func State() decode.Field {
	return decode.Field{Name: "state", Form: "new|established|invalid", Group: Group, Initial: "new",
		Usage: "new: opens a connection; established: of one that was\nthere before the rules; invalid: conntrack calls it so"}
}

// Question describes a packet as people do. What is empty has the Initial of its field, or follows from the rest.
type Question struct {
	From      string `json:"from,omitempty"`
	Dst       string `json:"dst"`
	Src       string `json:"src,omitempty"`
	Proto     string `json:"proto,omitempty"`
	UID       string `json:"uid,omitempty"`
	GID       string `json:"gid,omitempty"`
	Mark      string `json:"mark,omitempty"`
	Interface string `json:"interface,omitempty"`
	ToSelf    bool   `json:"toSelf,omitempty"`
	State     string `json:"state,omitempty"`
}

// Values of a Question's fields.
const (
	FromApp     = "app"
	FromProxy   = "proxy"
	FromOutside = "outside"

	StateNew         = "new"
	StateEstablished = "established"
	StateInvalid     = "invalid"

	ProtoTCP  = "tcp"
	ProtoUDP  = "udp"
	ProtoICMP = "icmp"
)

// FlagError is one thing wrong with a Question.
type FlagError struct {
	// Flag is the name of the field, without dashes.
	Flag string
	Err  error
}

func (e *FlagError) Error() string { return "--" + e.Flag + ": " + e.Err.Error() }

func (e *FlagError) Unwrap() error { return e.Err }

// complete has the initial values in place of what is empty.
func (q Question) complete() Question {
	q.From, q.Proto, q.State = cmp.Or(q.From, FromApp), cmp.Or(q.Proto, ProtoTCP), cmp.Or(q.State, StateNew)
	return q
}

// chosen says of which fields the value is none of those that there are.
func (q Question) chosen() (errs []error) {
	values := map[string]string{"from": q.From, "proto": q.Proto, "state": q.State}
	for _, f := range append(Fields(), State()) {
		if text := values[f.Name]; text != "" {
			if err := f.Plausible(text); err != nil {
				errs = append(errs, &FlagError{f.Name, err})
			}
		}
	}
	return errs
}

// Setting is a field's name and its value's text form.
type Setting struct{ Name, Value string }

// texts are the fields that are texts, by their names, in the order of the table.
func (q *Question) texts() []struct {
	name string
	text *string
} {
	return []struct {
		name string
		text *string
	}{
		{"from", &q.From}, {"dst", &q.Dst}, {"src", &q.Src}, {"proto", &q.Proto}, {"uid", &q.UID}, {"gid", &q.GID},
		{"mark", &q.Mark}, {"interface", &q.Interface}, {"state", &q.State},
	}
}

const toSelf = "to-self"

// Given are the fields that are not empty.
func (q Question) Given() (all []Setting) {
	for _, t := range q.texts() {
		if *t.text != "" {
			all = append(all, Setting{t.name, *t.text})
		}
	}
	if q.ToSelf {
		all = append(all, Setting{toSelf, "true"})
	}
	return all
}

// Set sets a field by its name, and reports whether there is such a field that can be so.
func (q *Question) Set(name, value string) bool {
	if name == toSelf {
		q.ToSelf = value == "true"
		return value == "true" || value == "false"
	}
	for _, t := range q.texts() {
		if t.name == name {
			*t.text = value
			return true
		}
	}
	return false
}

// Args are the arguments of mesh-init explain that ask the same.
func (q Question) Args() (args []string) {
	for _, s := range q.Given() {
		arg := "--" + s.Name
		if s.Name != toSelf {
			arg += "=" + s.Value
		}
		args = append(args, arg)
	}
	return args
}

// The addresses a packet is given where none is said: documentation addresses
// (RFC 5737, RFC 3849), which no configuration means by accident.
var (
	elsewhere4 = netip.AddrFrom4([4]byte{192, 0, 2, 1})
	elsewhere6 = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1})
)

const somePort = 40000

func elsewhere(f intercept.Family) netip.Addr {
	if f == intercept.IPv4 {
		return elsewhere4
	}
	return elsewhere6
}

func localhost(f intercept.Family) netip.Addr {
	if f == intercept.IPv4 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// Packet makes the packet that is described, or says everything that is wrong with the description. The errors joined are
// of type [*FlagError].
func (q Question) Packet(c intercept.Config) (intercept.Packet, error) {
	q = q.complete()
	errs := q.chosen()
	fail := func(name, format string, args ...any) {
		errs = append(errs, &FlagError{name, fmt.Errorf(format, args...)})
	}
	out := intercept.Packet{Hook: intercept.Output, Interface: q.Interface}
	var dst, src netip.AddrPort
	var err error
	if dst, err = ParseEndpoint(q.Dst, q.Proto, q.Proto != ProtoICMP); err != nil {
		fail("dst", "%w", err)
	}
	if q.Src != "" {
		if src, err = ParseEndpoint(q.Src, q.Proto, false); err != nil {
			fail("src", "%w", err)
		} else if dst.IsValid() && src.Addr().Is4() != dst.Addr().Is4() {
			fail("src", "%s and --dst %s are of different families", src.Addr(), dst.Addr())
		}
	}
	switch q.Proto {
	case ProtoTCP:
		out.Protocol = intercept.TCP
	case ProtoUDP:
		out.Protocol = intercept.UDP
	default:
		out.Protocol = intercept.ICMP
		if dst.Addr().Is6() {
			out.Protocol = intercept.ICMPv6
		}
		out.Echo = true
	}
	owners := []struct{ name, text string }{{"uid", q.UID}, {"gid", q.GID}}
	switch q.From {
	case FromOutside:
		out.Hook = intercept.Prerouting
		for _, o := range owners {
			if o.text != "" {
				fail(o.name, "%s: a packet from outside has no owner; leave it out", o.text)
			}
		}
		if q.ToSelf {
			fail(toSelf, "what comes from outside has left the pod it came from; use --from app or --from proxy")
		}
	case FromProxy:
		out.Owner = &intercept.Owner{UID: first(c.Proxy.UIDs), GID: first(c.Proxy.GIDs)}
		out.Mark = c.Proxy.Mark.Value
		for _, o := range owners {
			if o.text != "" {
				fail(o.name, "%s: the proxy's is configured (--proxy-%s); leave it out", o.text, o.name)
			}
		}
	default:
		out.Owner = &intercept.Owner{
			UID: id("uid", q.UID, c.Proxy.UIDs, fail),
			GID: id("gid", q.GID, c.Proxy.GIDs, fail),
		}
	}
	if q.Mark != "" {
		mark, err := strconv.ParseUint(q.Mark, 0, 32)
		if err != nil {
			fail("mark", "%q is not a mark (a number, as in 1337 or 0x539)", q.Mark)
		}
		if q.From == FromOutside {
			fail("mark", "%s: a packet from outside has no socket that could mark it; leave it out", q.Mark)
		}
		out.Mark = uint32(mark)
	}
	if out.Hook == intercept.Output && dst.Addr().IsUnspecified() {
		// There the kernel sends what goes to 0.0.0.0 or ::.
		dst = netip.AddrPortFrom(localhost(intercept.FamilyOf(dst.Addr())), dst.Port())
	}
	inside := q.ToSelf || out.Hook == intercept.Output && dst.Addr().IsLoopback()
	switch {
	case q.Interface != "":
		err := ruleset.ValidateInterface(out.Interface)
		if err == nil && strings.HasSuffix(out.Interface, "*") {
			err = fmt.Errorf("%q stands for several; name one", out.Interface)
		}
		if err != nil {
			fail("interface", "%w", err)
		}
		if q.ToSelf && out.Interface != ruleset.Loopback {
			fail("interface", "%q: what goes to the pod itself leaves by lo; leave it out", out.Interface)
		}
	case inside:
		out.Interface = ruleset.Loopback
	default:
		out.Interface = "eth0"
	}
	out.Listening = out.Hook == intercept.Prerouting
	// Behind a virtual interface are machines that send to the world.
	out.Foreign = out.Hook == intercept.Prerouting && slices.ContainsFunc(c.VirtualInterfaces, func(name string) bool {
		return ruleset.InterfaceMatches(name, out.Interface)
	})
	switch q.State {
	case StateEstablished:
		// NAT has forgotten nothing: it never knew. For a connection that
		// conntrack knows, what it decided on the first packet still holds.
		if out.Protocol != intercept.TCP {
			fail("state", "established: only a TCP packet shows that it opens nothing; use --proto tcp")
		}
		out.Flags = intercept.ACK
	case StateInvalid:
		out.State = intercept.CTInvalid
	}
	if err := errors.Join(errs...); err != nil {
		return intercept.Packet{}, err
	}
	out.Dst, out.Src = dst, source(src, dst, inside)
	return out, nil
}

// source completes the source: a packet inside the pod comes from the address
// it goes to, unless it is said to come from another.
func source(src, dst netip.AddrPort, inside bool) netip.AddrPort {
	addr, port := src.Addr(), src.Port()
	switch {
	case addr.IsValid():
	case inside:
		addr = dst.Addr()
	default:
		addr = elsewhere(intercept.FamilyOf(dst.Addr()))
	}
	if port == 0 && dst.Port() != 0 {
		port = somePort
	}
	return netip.AddrPortFrom(addr, port)
}

// someID is the user and the group of the app where none is said.
const someID = "1000"

func id(name, text string, proxy intercept.IDs, fail func(name, format string, args ...any)) uint32 {
	given := text != ""
	text = cmp.Or(text, someID)
	ids, err := intercept.ParseIDs(text)
	switch {
	case err != nil:
		fail(name, "%w", err)
		return 0
	case len(ids) != 1 || ids[0].First != ids[0].Last:
		fail(name, "%q is not one ID; a packet has one owner", text)
		return 0
	case !given && proxy.Contains(ids[0].First):
		fail(name, "the default, %s, is the proxy's here; give the app's", text)
	}
	return ids[0].First
}

// first returns the first ID of a list. If there is none, nobody's: the packet
// is known by its other ID.
func first(ids intercept.IDs) uint32 {
	if len(ids) == 0 {
		return 65534
	}
	return ids[0].First
}

// ParseEndpoint reads an address and a port, as in 10.1.2.3:443 or
// [fd00::1]:443. Without needPort it can be an address alone.
func ParseEndpoint(s, proto string, needPort bool) (netip.AddrPort, error) {
	if s == "" {
		return netip.AddrPort{}, errors.New("missing; write where the packet goes, as in --dst 10.1.2.3:443")
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	addr, err := netip.ParseAddr(bare)
	to := netip.AddrPortFrom(addr, 0)
	if err != nil {
		to, err = netip.ParseAddrPort(s)
	}
	switch {
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("%q is not an address and a port (as in 10.1.2.3:443 or [fd00::1]:443)", s)
	case to.Addr().Is4In6():
		unmapped := netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
		return netip.AddrPort{}, fmt.Errorf("%q is IPv4 written as IPv6; write %s", s, unmapped)
	case to.Addr().Zone() != "":
		return netip.AddrPort{}, fmt.Errorf("%q has a zone; leave it off and name the interface with --interface", s)
	case needPort && to.Port() == 0 && bare == s && portOf(s) != (netip.AddrPort{}):
		return netip.AddrPort{}, fmt.Errorf("%q is an IPv6 address as a whole, and rules for %s look at a port; write %s, or %s",
			s, proto, portOf(s), netip.AddrPortFrom(to.Addr(), 443))
	case needPort && to.Port() == 0:
		return netip.AddrPort{}, fmt.Errorf("%q has no port, and rules for %s look at it; write %s",
			s, proto, netip.AddrPortFrom(to.Addr(), 443))
	case proto == ProtoICMP && to.Port() != 0:
		return netip.AddrPort{}, fmt.Errorf("%q has a port, and icmp has none; write %s", s, to.Addr())
	}
	return to, nil
}

// portOf takes the last part of an IPv6 address for a port: of one that was written without brackets it may be meant so.
func portOf(s string) netip.AddrPort {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return netip.AddrPort{}
	}
	to, err := netip.ParseAddrPort("[" + s[:i] + "]" + s[i:])
	if err != nil {
		return netip.AddrPort{}
	}
	return to
}

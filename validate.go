package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/ruleset"
)

// FieldError is one thing wrong with a Config.
type FieldError struct {
	// Field is the path of the field as it reads in JSON: "outbound.excludePorts".
	// Empty: it is no one field.
	Field string
	// Source is what the value came from, where that is known: a flag, a
	// variable, a file, an annotation. Empty: a Config.
	Source string
	// Line is the value's line in a document. Zero: there is none.
	Line int
	// Other is the path of another field, where that one can put it right: Err
	// names it so. Empty: there is none.
	Other string
	Err   error
}

func (e *FieldError) Error() string {
	s := e.Err.Error()
	if e.Field != "" {
		s = e.Field + ": " + s
	}
	switch {
	case e.Source != "" && e.Line > 0:
		return fmt.Sprintf("%s (from %s, line %d)", s, e.Source, e.Line)
	case e.Source != "":
		return fmt.Sprintf("%s (from %s)", s, e.Source)
	case e.Line > 0:
		return fmt.Sprintf("%s (line %d)", s, e.Line)
	}
	return s
}

func (e *FieldError) Unwrap() error { return e.Err }

// ErrNothingCaptured is what a [*NothingCapturedError] is.
var ErrNothingCaptured = errors.New("this configuration captures nothing")

// NothingCapturedError is what [Config.Validate] reports of a Config under which no connection of an app, and none that
// arrives, would ever go to the proxy, nor any name lookup to its resolver: most likely a mistake, and one that nobody
// would notice.
type NothingCapturedError struct {
	// Fields are the paths of the fields that together leave nothing, as in [FieldError]: with any one of them as in
	// [Default] something would be captured.
	Fields []string
}

func (e *NothingCapturedError) Error() string {
	last := len(e.Fields) - 1
	if last <= 0 {
		return fmt.Sprintf("%s: %s leaves nothing", ErrNothingCaptured, strings.Join(e.Fields, ""))
	}
	return fmt.Sprintf("%s: %s and %s together leave nothing", ErrNothingCaptured, strings.Join(e.Fields[:last], ", "),
		e.Fields[last])
}

// Is makes the error an [ErrNothingCaptured].
func (e *NothingCapturedError) Is(target error) bool { return target == ErrNothingCaptured }

// Validate reports everything that is wrong with c, not just the first thing, in
// the order of the fields: the errors joined by [errors.Join] are of type
// [*FieldError], or one [*NothingCapturedError].
func (c Config) Validate() error {
	_, err := c.valid()
	return err
}

// valid returns the rules of c, or what is wrong with it.
func (c Config) valid() (Ruleset, error) {
	v := &validator{}
	v.proxy(c.Proxy)
	v.outbound(c.Outbound)
	v.inbound(c.Inbound)
	v.dns(c.DNS, c.families())
	v.target("outbound.target", c.Outbound.Target, c.families(), c.VirtualInterfaces)
	v.target("dns.target", c.DNS.Target, c.asked(), c.VirtualInterfaces)
	v.tproxy(c)
	v.roles(c)
	for _, name := range c.VirtualInterfaces {
		v.check("virtualInterfaces", ruleset.ValidateInterface(name))
		if ruleset.InterfaceMatches(name, ruleset.Loopback) {
			v.fail("virtualInterfaces", "%q is the pod's own loopback interface, too", name)
		}
	}
	v.virtualNetworks(c)
	v.treatment("outbound.udp", c.Outbound.UDP)
	v.treatment("outbound.quic", c.Outbound.QUIC)
	v.treatment("otherFamily", c.OtherFamily)
	v.treatment("outbound.otherProtocols", c.Outbound.OtherProtocols)
	v.backstop(c)
	if c.OtherFamily == TreatmentReject && len(c.families()) == 2 {
		v.settle("otherFamily", "families", "reject, but IPv4 and IPv6 are both captured; name the one to capture with %s")
	}
	for _, name := range c.ExcludeInterfaces {
		v.check("excludeInterfaces", ruleset.ValidateInterface(name))
	}
	v.loopback(c.Loopback)
	v.passthrough(c.PassthroughSources)
	switch c.Families {
	case FamiliesAuto, FamiliesIPv4, FamiliesIPv6, FamiliesDual:
	default:
		v.fail("families", "%q is not one of auto, ipv4, ipv6, dual", string(c.Families))
	}
	if err := v.err(); err != nil {
		return Ruleset{}, err
	}
	rs := c.rules()
	if !c.captures(rs) {
		return Ruleset{}, errors.Join(&NothingCapturedError{c.leavesNothing()})
	}
	return rs, nil
}

type validator struct{ errs []*FieldError }

// err joins the errors in the order of the fields. Some fields are looked at
// more than once, beside others.
func (v *validator) err() error {
	if len(v.errs) == 0 {
		return nil
	}
	place := map[string]int{}
	for i, path := range strict.Paths(reflect.TypeFor[Config]()) {
		part, _, _ := strings.Cut(path, ".")
		if _, ok := place[part]; !ok {
			place[part] = i // proxy, before proxy.uids
		}
		place[path] = i
	}
	of := func(e *FieldError) int {
		path, _, _ := strings.Cut(e.Field, "[")
		return place[path]
	}
	sort.SliceStable(v.errs, func(i, j int) bool { return of(v.errs[i]) < of(v.errs[j]) })
	errs := make([]error, len(v.errs))
	for i, e := range v.errs {
		errs[i] = e
	}
	return errors.Join(errs...)
}

func (v *validator) check(field string, err error) {
	if err != nil {
		v.errs = append(v.errs, &FieldError{Field: field, Err: err})
	}
}

// settle is fail where another field can put it right, which the text names.
func (v *validator) settle(field, other, format string) {
	v.errs = append(v.errs, &FieldError{Field: field, Other: other, Err: fmt.Errorf(format, other)})
}

func (v *validator) fail(field, format string, args ...any) {
	v.check(field, fmt.Errorf(format, args...))
}

func (v *validator) proxy(p Proxy) {
	v.ids("proxy.uids", p.UIDs)
	v.ids("proxy.gids", p.GIDs)
	v.check("proxy.mark", p.Mark.Validate())
	if len(p.UIDs) == 0 && len(p.GIDs) == 0 && p.Mark.Mask == 0 {
		v.fail("proxy", "neither a UID nor a GID nor a mark: the proxy's own connections would come back to it for ever")
	}
	if p.AllowRoot {
		return
	}
	if p.UIDs.Contains(0) {
		v.settle("proxy.uids", "proxy.allowRoot", "0: every process that runs as root would escape interception; run the "+
			"proxy as another user, or allow it with %s")
	}
	if p.GIDs.Contains(0) {
		v.settle("proxy.gids", "proxy.allowRoot", "0: every process of the root group, in many images all of them, would "+
			"escape interception; run the proxy under another group, or allow it with %s")
	}
}

func (v *validator) outbound(o Outbound) {
	v.check("outbound.port", o.Port.Validate())
	v.cidrs("outbound.includeCIDRs", o.IncludeCIDRs)
	v.cidrs("outbound.excludeCIDRs", o.ExcludeCIDRs)
	v.ports("outbound.includePorts", o.IncludePorts)
	v.ports("outbound.excludePorts", o.ExcludePorts)
	for i, e := range o.Exclude {
		field := fmt.Sprintf("outbound.exclude[%d]", i)
		switch e.Protocol {
		case 0, TCP, UDP:
		default:
			v.fail(field+".protocol", "%q is not tcp or udp", e.Protocol)
		}
		if e.Protocol == 0 && len(e.CIDRs) == 0 && len(e.Ports) == 0 && len(e.UIDs) == 0 && len(e.GIDs) == 0 {
			v.fail(field, "no property given: it would exclude everything")
		}
		v.cidrs(field+".cidrs", e.CIDRs)
		v.ports(field+".ports", e.Ports)
		v.ids(field+".uids", e.UIDs)
		v.ids(field+".gids", e.GIDs)
	}
	v.ids("outbound.includeUIDs", o.IncludeUIDs)
	v.ids("outbound.includeGIDs", o.IncludeGIDs)
	v.ids("outbound.excludeUIDs", o.ExcludeUIDs)
	v.ids("outbound.excludeGIDs", o.ExcludeGIDs)
}

func (v *validator) inbound(in Inbound) {
	switch in.Mode {
	case InboundRedirect, InboundTProxy, InboundOff:
	default:
		v.fail("inbound.mode", "%q is not one of redirect, tproxy, off", string(in.Mode))
	}
	switch in.Hairpin {
	case HairpinCapture, HairpinPass:
	default:
		v.fail("inbound.hairpin", "%q is not one of capture, pass", string(in.Hairpin))
	}
	v.check("inbound.port", in.Port.Validate())
	v.ports("inbound.includePorts", in.IncludePorts)
	v.ports("inbound.excludePorts", in.ExcludePorts)
	v.cidrs("inbound.excludeSources", in.ExcludeSources)
	for i, e := range in.Exclude {
		field := fmt.Sprintf("inbound.exclude[%d]", i)
		if len(e.Sources) == 0 && len(e.Ports) == 0 {
			v.fail(field, "no property given: it would exclude everything")
		}
		v.cidrs(field+".sources", e.Sources)
		v.ports(field+".ports", e.Ports)
	}
}

// tproxy checks what mode tproxy alone uses.
func (v *validator) tproxy(c Config) {
	if c.Inbound.Mode != InboundTProxy {
		return
	}
	if p := c.Inbound.Port; p.First != p.Last {
		v.fail("inbound.port", "%s: mode tproxy delivers to one port; name one, or use mode redirect", p)
	}
	t := c.Inbound.TProxy
	v.tproxyMark("inbound.tproxy.mark", t.Mark)
	v.tproxyMark("inbound.tproxy.selfMark", t.SelfMark)
	if both := t.Mark.Mask & t.SelfMark.Mask; t.Mark.Value&both == t.SelfMark.Value&both {
		v.fail("inbound.tproxy.selfMark", "%s and the mark %s: a packet can have both, but they mean different things",
			t.SelfMark, t.Mark)
	}
	// A socket's mark chooses the route of its packets, too.
	if m := c.Proxy.Mark; m.Mask != 0 && m.Value&t.Mark.Mask == t.Mark.Value {
		v.fail("proxy.mark", "%s is also inbound.tproxy.mark %s: what the proxy sends out of the pod would be delivered to "+
			"the pod", m, t.Mark)
	}
	if m := c.Proxy.Mark; m.Mask != 0 && m.Value&t.SelfMark.Mask == t.SelfMark.Value {
		v.fail("proxy.mark", "%s is also inbound.tproxy.selfMark %s: all that the proxy sends inside the pod would come "+
			"back to it", m, t.SelfMark)
	}
	if t.Table == 0 || t.Table >= 253 && t.Table <= 255 {
		v.fail("inbound.tproxy.table", "%d is the kernel's own (253 default, 254 main, 255 local, 0 unspecified); name "+
			"another", t.Table)
	}
}

func (v *validator) tproxyMark(field string, m Mark) {
	v.check(field, m.Validate())
	if m.Mask == 0 {
		v.fail(field, "none: mode tproxy tells packets by it")
	}
}

// target checks where connections go instead of to a port of the pod.
// asked are the captured families in which a captured lookup can be.
func (c Config) asked() []Family {
	if c.DNS.Mode != DNSResolvConf || len(c.DNS.Servers) == 0 {
		return c.families()
	}
	return slices.DeleteFunc(c.families(), func(f Family) bool {
		return !slices.ContainsFunc(c.DNS.Servers, func(a netip.Addr) bool { return a.IsValid() && FamilyOf(a) == f })
	})
}

func (v *validator) target(field string, target []netip.AddrPort, families []Family, virtual []string) {
	seen := map[Family]netip.AddrPort{}
	inside := 0
	for _, t := range target {
		if err := validateAddr(t.Addr()); err != nil {
			v.check(field, err)
			continue
		}
		if t.Port() == 0 {
			v.fail(field, "%s: 0 is not a port; ports are 1 to 65535", t)
		}
		if other, dup := seen[FamilyOf(t.Addr())]; dup {
			v.fail(field, "%s and %s: at most one of each family", other, t)
		}
		seen[FamilyOf(t.Addr())] = t
		if t.Addr().IsLoopback() {
			inside++
		}
	}
	if len(target) == 0 {
		return
	}
	if t, is := seen[IPv6]; is && t.Addr().IsLoopback() && len(virtual) > 0 && slices.Contains(families, IPv6) {
		v.fail(field, "%s: what arrives by a virtual interface (%s) cannot go to ::1, since IPv6 has no route_localnet; "+
			"let the target listen on another address, or use the redirect to a port", t, virtual[0])
	}
	if inside > 0 && inside < len(target) {
		v.fail(field, "%s and %s: one is in the pod and the other is not", target[0], target[1])
	}
	for _, f := range families {
		if _, ok := seen[f]; !ok {
			v.fail(field, "none for %s, which is captured, too; name one, or capture the other family alone (families)", f)
		}
	}
}

func (v *validator) backstop(c Config) {
	switch c.Backstop {
	case BackstopOn, BackstopSyn, BackstopOff:
	default:
		v.fail("backstop", "%q is not one of on, syn, off", string(c.Backstop))
		return
	}
	if c.Outbound.OtherProtocols == TreatmentReject && c.Backstop != BackstopOn {
		v.fail("outbound.otherProtocols", "reject takes backstop on, not %s", c.Backstop)
	}
}

func (v *validator) treatment(field string, t Treatment) {
	if t != TreatmentPass && t != TreatmentReject {
		v.fail(field, "%q is not one of pass, reject", string(t))
	}
}

func (v *validator) dns(d DNS, families []Family) {
	switch d.Mode {
	case DNSOff, DNSResolvConf, DNSAll:
	default:
		v.fail("dns.mode", "%q is not one of off, resolvconf, all", string(d.Mode))
	}
	v.check("dns.port", Port(d.Port).Validate())
	switch {
	case d.Mode == DNSResolvConf && len(d.Servers) == 0:
		v.fail("dns.servers", "none, so mode resolvconf would capture no lookup; name the servers, or use mode all")
	case d.Mode == DNSAll && len(d.Servers) > 0:
		v.fail("dns.servers", "%s: mode all captures every server; use mode resolvconf to capture these alone", d.Servers[0])
	}
	captured := false
	for _, a := range d.Servers {
		v.check("dns.servers", validateAddr(a))
		captured = captured || slices.Contains(families, FamilyOf(a))
	}
	leaves := func(a netip.Addr) bool { return !a.IsLoopback() }
	if d.Mode == DNSResolvConf && leavesPod(d.Target) && len(d.Servers) > 0 && !slices.ContainsFunc(d.Servers, leaves) {
		v.fail("dns.servers", "%s: lookups to loopback addresses cannot go to a target outside the pod (dns.target)",
			single(d.Servers))
	}
	if len(d.Servers) > 0 && !captured {
		v.fail("dns.servers", "%s: no server is of a family that is captured (families)", single(d.Servers))
	}
}

// roles makes sure that no two parts of the proxy are said to be on one port.
func (v *validator) roles(c Config) {
	type role struct {
		field string
		ports PortRange
	}
	var roles []role
	if len(c.Outbound.Target) == 0 {
		roles = append(roles, role{"outbound.port", c.Outbound.Port})
	}
	if c.Inbound.Mode != InboundOff {
		roles = append(roles, role{"inbound.port", c.Inbound.Port})
	}
	if c.DNS.Mode != DNSOff && len(c.DNS.Target) == 0 {
		roles = append(roles, role{"dns.port", Port(c.DNS.Port)})
	}
	if c.TunnelPort != 0 {
		roles = append(roles, role{"tunnelPort", Port(c.TunnelPort)})
	}
	for i, a := range roles {
		for _, b := range roles[:i] {
			if a.ports.First <= b.ports.Last && b.ports.First <= a.ports.Last {
				v.fail(a.field, "port %s is also %s (%s); give each its own", a.ports, b.field, b.ports)
			}
		}
	}
}

var (
	loopbackIPv4 = netip.MustParsePrefix("127.0.0.0/8")
	localhost4   = netip.MustParseAddr("127.0.0.1")
	localhost6   = netip.IPv6Loopback()
)

func (v *validator) loopback(l CIDRs) {
	v.cidrs("loopback", l)
	for _, p := range l {
		if !inLoopback(p) {
			v.fail("loopback", "%s is not inside 127.0.0.0/8 or ::1", p)
		}
	}
	for _, a := range []netip.Addr{localhost4, localhost6} {
		if !l.Contains(a) {
			v.fail("loopback", "%s is missing: the proxy's own calls to it would be captured", a)
		}
	}
}

// inLoopback reports whether p is a part of the loopback network of its family.
func inLoopback(p netip.Prefix) bool {
	return loopbackIPv4.Contains(p.Addr()) && p.Bits() >= 8 ||
		p.Addr() == localhost6 && p.Bits() == 128
}

func (v *validator) passthrough(addrs []netip.Addr) {
	seen := map[Family]netip.Addr{}
	for _, a := range addrs {
		if err := validateAddr(a); err != nil {
			v.check("passthroughSources", err)
			continue
		}
		if a == localhost4 || a == localhost6 {
			v.fail("passthroughSources", "%s is everybody's source address: all traffic to it would pass", a)
		}
		if other, dup := seen[FamilyOf(a)]; dup {
			v.fail("passthroughSources", "%s and %s: at most one of each family", other, a)
		}
		seen[FamilyOf(a)] = a
	}
}

func (v *validator) ports(field string, l Ports) { checkEach(v, field, l, PortRange.Validate) }
func (v *validator) ids(field string, l IDs)     { checkEach(v, field, l, IDRange.Validate) }
func (v *validator) cidrs(field string, l CIDRs) { checkEach(v, field, l, ruleset.ValidatePrefix) }

func checkEach[E any](v *validator, field string, list []E, validate func(E) error) {
	for _, e := range list {
		v.check(field, validate(e))
	}
}

func validateAddr(a netip.Addr) error {
	switch {
	case !a.IsValid():
		return errors.New("the zero address is not an address")
	case a.Is4In6():
		return fmt.Errorf("address %q is IPv4 written as IPv6; write %s", a, a.Unmap())
	case a.Zone() != "":
		return fmt.Errorf("address %q has a zone; write %s", a, a.WithZone(""))
	case a.IsUnspecified():
		return fmt.Errorf("address %q stands for any address, not for one", a)
	}
	return nil
}

// capturesAnything reports whether any connection can reach the proxy, or any lookup the resolver. What the proxy sends
// does not count.
func (c Config) capturesAnything() bool { return c.captures(c.rules()) }

// captures is capturesAnything of rules of c.
func (c Config) captures(rs Ruleset) bool {
	_, any := rs.Captured(c.Proxy.UIDs, c.Proxy.GIDs)
	return any
}

// leavesNothing returns the fields to which it is due that c captures nothing: as few as can be, of those that are not
// as in Default.
func (c Config) leavesNothing() []string {
	var due []string
	defaults := Default()
	for _, path := range strict.Paths(reflect.TypeFor[Config]()) {
		without := c
		field := strict.Lookup(reflect.ValueOf(&without).Elem(), path)
		usual := strict.Lookup(reflect.ValueOf(&defaults).Elem(), path)
		if reflect.DeepEqual(field.Interface(), usual.Interface()) {
			continue
		}
		field.Set(usual)
		if without.capturesAnything() {
			due = append(due, path)
		} else {
			c = without
		}
	}
	return due
}

// capturesDNS reports whether any lookup can reach the resolver.
func (c Config) capturesDNS() bool {
	return c.DNS.Mode != DNSOff && !c.Outbound.ExcludePorts.Contains(dnsPort)
}

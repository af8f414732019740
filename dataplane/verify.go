package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/sockets"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Verdict is what Verify finds of one thing.
type Verdict struct {
	What string `json:"what"`
	OK   bool   `json:"ok"`
	// Found says what was seen, and what to do about it if it is not OK.
	Found string `json:"found"`
}

// Verify finds out whether interception works under c: whether the rules are
// as Apply leaves them, whether somebody listens where they send connections
// to, and whether a connection that has to be captured is. For the last it
// opens some, to addresses nobody has (RFC 5737, RFC 3849), that do not get
// beyond the node if they are not captured: their hop limit is 1.
func (s *Session) Verify(ctx context.Context, c intercept.Config) (verdicts []Verdict, err error) {
	p, err := newPlan(c)
	if err != nil {
		return nil, err
	}
	err = s.do(ctx, func() error {
		verdicts, err = s.space.verify(ctx, s.pod.Backend, p)
		return err
	})
	return verdicts, err
}

func (s *space) verify(ctx context.Context, want Backend, plan plan) ([]Verdict, error) {
	c, rs := plan.config, plan.rules
	diffs, err := s.check(ctx, want, plan)
	if err != nil && !errors.Is(err, ruleset.ErrNotIntercepted) {
		return nil, err
	}
	rules := Verdict{What: "rules", OK: err == nil && len(diffs) == 0, Found: "as this configuration makes them"}
	switch {
	case err != nil:
		rules.Found = err.Error() + "; run mesh-init apply there"
	case len(diffs) > 0:
		rules.Found = fmt.Sprintf("%d differences, the first: %s; mesh-init check names all, "+
			"and mesh-init apply puts them right", len(diffs), diffs[0])
	}
	verdicts := []Verdict{rules}
	listed := map[ruleset.Protocol]func() ([]sockets.Socket, error){}
	for _, p := range []ruleset.Protocol{ruleset.TCP, ruleset.UDP} {
		listed[p] = sync.OnceValues(func() ([]sockets.Socket, error) { return sockets.List(p) })
	}
	for _, l := range listeners(c, captured(c, rs.Families)) {
		verdicts = append(verdicts, l.judge(listed[l.protocol], c.Proxy))
	}
	for _, f := range rs.Families {
		p, trace, ok := toTry(rs, f)
		if !ok {
			continue
		}
		v, err := s.try(ctx, want, &plan, p, trace)
		if err != nil {
			return nil, err
		}
		verdicts = append(verdicts, v)
	}
	return verdicts, nil
}

// listener is a socket that rules send connections to.
type listener struct {
	what     string
	protocol ruleset.Protocol
	addr     netip.Addr // one that it has to be reachable at
	port     uint16
	isProxy  bool // it has to belong to the proxy
}

// captured returns the families whose connections go to the proxy. The one that
// c leaves out has rules, too, if it is rejected.
func captured(c intercept.Config, families []ruleset.Family) []ruleset.Family {
	return slices.DeleteFunc(slices.Clone(families), func(f ruleset.Family) bool {
		return c.Families == intercept.FamiliesIPv4 && f == ruleset.IPv6 ||
			c.Families == intercept.FamiliesIPv6 && f == ruleset.IPv4
	})
}

// listeners returns the sockets that c needs.
func listeners(c intercept.Config, families []ruleset.Family) []listener {
	var all []listener
	for _, f := range families {
		localhost := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if f == ruleset.IPv6 {
			localhost = netip.IPv6Loopback()
		}
		ports := func(what string, r ruleset.PortRange) {
			for p := int(r.First); p <= int(r.Last); p++ {
				all = append(all, listener{what + ", " + f.String(), ruleset.TCP, localhost, uint16(p), false})
			}
		}
		if len(c.Outbound.Target) == 0 && len(c.Outbound.IncludeCIDRs)+len(c.Outbound.IncludePorts) > 0 {
			ports("outbound proxy port", c.Outbound.Port)
		}
		if c.Inbound.Mode != intercept.InboundOff {
			ports("inbound proxy port", c.Inbound.Port)
		}
		if c.DNS.Mode != intercept.DNSOff && len(c.DNS.Target) == 0 {
			for _, p := range []ruleset.Protocol{ruleset.UDP, ruleset.TCP} {
				all = append(all, listener{"DNS port, " + strings.ToUpper(p.String()) + ", " + f.String(), p, localhost, c.DNS.Port,
					true})
			}
		}
	}
	return all
}

func (e listener) judge(list func() ([]sockets.Socket, error), proxy intercept.Proxy) Verdict {
	v := Verdict{What: fmt.Sprintf("%s %d", e.what, e.port)}
	at := netip.AddrPortFrom(e.addr, e.port)
	all, err := list()
	if err != nil {
		v.Found = "cannot tell who listens: " + err.Error()
		return v
	}
	i := slices.IndexFunc(all, func(s sockets.Socket) bool { return s.Serves(at) })
	if i < 0 {
		v.Found = fmt.Sprintf("nobody listens at %s, so connections are refused until the proxy does", at)
		return v
	}
	v.OK, v.Found = true, fmt.Sprintf("user %d listens at %s", all[i].UID, all[i].Local)
	if e.isProxy && len(proxy.GIDs) == 0 && proxy.Mark.Mask == 0 && !proxy.UIDs.Contains(all[i].UID) {
		v.OK = false
		v.Found += fmt.Sprintf(", who is not the proxy (%s): its own lookups come back to it, and its answers get lost",
			proxy.UIDs)
	}
	return v
}

// toTry returns the first packet of a connection that this process could open
// to an address of a family that nobody has, and that rs captures.
func toTry(rs ruleset.Ruleset, f ruleset.Family) (ruleset.Packet, ruleset.Trace, bool) {
	dsts, src := []string{"192.0.2.1", "198.51.100.1", "203.0.113.1"}, netip.MustParseAddrPort("192.0.2.254:40000")
	if f == ruleset.IPv6 {
		dsts, src = []string{"2001:db8::1", "2001:db8:ffff::1"}, netip.MustParseAddrPort("[2001:db8::fffe]:40000")
	}
	p := ruleset.Packet{Hook: ruleset.Output, Protocol: ruleset.TCP, Interface: "eth0", Src: src,
		Owner: &ruleset.Owner{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}}
	for _, dst := range dsts {
		for _, port := range []uint16{80, 443, 8080, 9} {
			p.Dst = netip.AddrPortFrom(netip.MustParseAddr(dst), port)
			if trace, err := rs.Trace(p); err == nil && trace.Fate.Action == ruleset.Redirected {
				return p, trace, true
			}
		}
	}
	return ruleset.Packet{}, ruleset.Trace{}, false
}

// try opens a connection that has to be captured. That it is accepted is not
// enough, since somebody may have the address after all: the rule that
// captures it has to count it.
func (s *space) try(ctx context.Context, want Backend, like *plan, p ruleset.Packet, trace ruleset.Trace) (Verdict,
	error) {
	v := Verdict{What: "a connection to " + p.Dst.String()}
	count := func() (n uint64, err error) {
		status, err := s.status(ctx, want, like)
		if errors.Is(err, ruleset.ErrNotIntercepted) {
			return 0, nil
		}
		for _, c := range status.Counters {
			if c.Rule == trace.Rule {
				n += c.Packets
			}
		}
		return n, err
	}
	before, err := count()
	if err != nil {
		return v, err
	}
	connErr := connect(ctx, p.Dst, 2*time.Second)
	after, err := count()
	if err != nil {
		return v, err
	}
	switch counted := after > before; {
	case connErr == nil && counted:
		v.OK, v.Found = true, "captured and accepted"
	case counted:
		v.Found = fmt.Sprintf("captured, but not accepted (%v)", connErr)
	default:
		v.Found = "not captured: no rule has counted it"
	}
	return v, nil
}

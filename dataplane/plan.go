package dataplane

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/sockets"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// plan is what a configuration comes to on this kernel.
type plan struct {
	config intercept.Config
	rules  ruleset.Ruleset
	routes []ruleset.MarkRoute
}

// newPlan compiles a configuration.
func newPlan(c intercept.Config) (plan, error) {
	rs, err := intercept.Compile(c)
	if err != nil {
		return plan{}, err
	}
	rs = forKernel(rs, c.Families, hasIPv6())
	p := plan{config: c, routes: rs.Routes}
	rs.Routes = nil
	p.rules = rs
	return p, nil
}

// with returns the rules of the configuration with another backstop.
func (p plan) with(b intercept.Backstop) ruleset.Ruleset {
	c := p.config
	c.Backstop, c.Outbound.OtherProtocols = b, intercept.TreatmentPass
	rs, err := intercept.Compile(c)
	if err != nil {
		return p.rules // no configuration is valid with a backstop alone
	}
	rs.Routes, rs.Families = nil, p.rules.Families
	return rs
}

// rulesFor returns the rules as a backend can have them: the minimal dialect of iptables knows nothing of conntrack, and
// so has no backstop.
func (p plan) rulesFor(b Backend, how IPTables) ruleset.Ruleset {
	if b != BackendNFT && how.Dialect == iptables.Minimal && p.config.Backstop != intercept.BackstopOff {
		return p.with(intercept.BackstopOff)
	}
	return p.rules
}

// warning says what rulesFor leaves out, or nothing.
func (p plan) warning(b Backend, how IPTables) []string {
	if b != BackendNFT && how.Dialect == iptables.Minimal && p.config.Backstop != intercept.BackstopOff {
		return []string{"the minimal dialect of iptables has no backstop: what conntrack is wrong about goes past the proxy"}
	}
	return nil
}

// needsOlder reports whether the rules would break a TCP connection that is older than they are, unless they know it.
func (p plan) needsOlder() bool { return p.config.Backstop == intercept.BackstopOn }

// olderConnections returns the TCP connections of the namespace that nothing translates: those that were there before
// rules captured them. It is asked once the rules are in force that capture what opens, and before those that look at
// the rest.
func olderConnections() ([]ruleset.Tuple, error) {
	connections, err := sockets.Connections()
	if err != nil || len(connections) == 0 {
		return nil, err
	}
	translated := map[ruleset.Tuple]bool{}
	for _, f := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, f)
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			return connections, nil // No netfilter by netlink: of none is it known that it is translated.
		}
		if err != nil {
			return nil, fmt.Errorf("list what conntrack knows in the namespace: %w", err)
		}
		for _, flow := range flows {
			out, back := flow.Forward, flow.Reverse
			if out.Protocol == unix.IPPROTO_TCP && (!out.DstIP.Equal(back.SrcIP) || out.DstPort != back.SrcPort) {
				translated[tuple(out.SrcIP, out.SrcPort, out.DstIP, out.DstPort)] = true
			}
		}
	}
	return slices.DeleteFunc(connections, func(t ruleset.Tuple) bool { return translated[t] }), nil
}

// tuple is one direction of what conntrack knows.
func tuple(src net.IP, srcPort uint16, dst net.IP, dstPort uint16) ruleset.Tuple {
	end := func(ip net.IP, port uint16) netip.AddrPort {
		addr, _ := netip.AddrFromSlice(ip)
		return netip.AddrPortFrom(addr.Unmap(), port)
	}
	return ruleset.Tuple{Src: end(src, srcPort), Dst: end(dst, dstPort)}
}

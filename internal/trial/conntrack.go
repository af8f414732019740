//go:build linux

package trial

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

// entries are those that conntrack has, by how they begin.
type entries map[conntrack.Ends]verify.Entry

// tracked lists what conntrack has of connections to where the probes are for, or are sent to, and whatever has one of
// [verify.SourcePorts]. ok is false where conntrack cannot be asked: for want of netlink in the kernel, or of privilege.
func tracked(probes []verify.Probe) (all entries, ok bool, err error) {
	asked := map[netip.AddrPort]bool{}
	for _, p := range probes {
		asked[p.Packet.Dst] = true
		for _, to := range p.Destinations() {
			asked[to] = true
		}
	}
	all = entries{}
	err = conntrack.Each(func(e conntrack.Entry) {
		begins := e.Original
		if asked[begins.Dst] || isOurs(begins.Src) || isOurs(begins.Dst) || isOurs(e.Reply.Src) {
			all[begins] = verify.Entry{To: e.Reply.Src, Mark: e.Mark, Zone: e.Zone}
		}
	})
	if errors.Is(err, ruleset.ErrUnsupported) || errors.Is(err, ruleset.ErrPermission) {
		return nil, false, nil
	}
	return all, err == nil, err
}

// isOurs reports whether the port is one of [verify.SourcePorts].
func isOurs(end netip.AddrPort) bool { return ruleset.Ports{verify.SourcePorts}.Contains(end.Port()) }

// forget takes entries out that begin like one of these: whoever begins the same again has to be asked for anew.
func forget(begun map[conntrack.Ends]bool) error {
	if len(begun) == 0 {
		return nil
	}
	if err := conntrack.Delete(func(e conntrack.Entry) bool { return begun[e.Original] }); err != nil {
		return fmt.Errorf("take the entries of what was tried out of conntrack: %w", err)
	}
	return nil
}

// ports are those of [verify.SourcePorts] that an entry has. What begins with one of them could be taken for what the
// entry is of, and is then not asked for by NAT; or has its port translated, since the answers' ends are taken.
func (all entries) ports() map[uint16]bool {
	ports := map[uint16]bool{}
	for begins, e := range all {
		for _, end := range []netip.AddrPort{begins.Src, begins.Dst, e.To} {
			ports[end.Port()] = true
		}
	}
	return ports
}

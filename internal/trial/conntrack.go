//go:build linux

package trial

import (
	"errors"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

// flow is a connection by its first packet.
type flow struct {
	protocol ruleset.Protocol
	src, dst netip.AddrPort
}

// tracked lists what conntrack has. ok is false where it cannot be asked: for want of netlink in the kernel, or of
// privilege.
func tracked() (all map[flow]verify.Entry, ok bool, err error) {
	all = map[flow]verify.Entry{}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		entries, err := list(family)
		switch {
		case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM),
			errors.Is(err, unix.EOPNOTSUPP):
			return nil, false, nil
		case err != nil:
			return nil, false, err
		}
		for _, e := range entries {
			f := flow{ruleset.Protocol(e.Forward.Protocol), end(e.Forward.SrcIP, e.Forward.SrcPort),
				end(e.Forward.DstIP, e.Forward.DstPort)}
			all[f] = verify.Entry{To: end(e.Reverse.SrcIP, e.Reverse.SrcPort), Mark: e.Mark, Zone: e.Zone}
		}
	}
	return all, true, nil
}

// list lists again what a change has interrupted. A listing that is interrupted each time serves, too.
func list(family netlink.InetFamily) (all []*netlink.ConntrackFlow, err error) {
	for range 5 {
		all, err = netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, nil
}

func end(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

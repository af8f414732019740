//go:build linux

package trial

import (
	"errors"
	"fmt"
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
			all[begins(e)] = verify.Entry{To: end(e.Reverse.SrcIP, e.Reverse.SrcPort), Mark: e.Mark, Zone: e.Zone}
		}
	}
	return all, true, nil
}

// list lists again what a change has interrupted. A listing that is interrupted each time serves, too.
func list(family netlink.InetFamily) (all []*netlink.ConntrackFlow, err error) {
	err = again(func() error {
		all, err = netlink.ConntrackTableList(netlink.ConntrackTable, family)
		return err
	})
	return all, err
}

// again does again what a change has interrupted, five times in all. Interrupted each time is done, too.
func again(do func() error) (err error) {
	for range 5 {
		if err = do(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return err
		}
	}
	return nil
}

// forget takes entries out that begin with one of the flows: whoever begins the same again has to be asked for anew.
func forget(flows map[flow]bool) error {
	if len(flows) == 0 {
		return nil
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		err := again(func() error {
			_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, ours(flows))
			return err
		})
		if err != nil {
			return fmt.Errorf("take the entries of what was tried out of conntrack: %w", err)
		}
	}
	return nil
}

// ours matches entries that begin with one of the flows.
type ours map[flow]bool

// MatchConntrackFlow is part of [netlink.CustomConntrackFilter].
func (o ours) MatchConntrackFlow(e *netlink.ConntrackFlow) bool { return o[begins(e)] }

func begins(e *netlink.ConntrackFlow) flow {
	return flow{ruleset.Protocol(e.Forward.Protocol), end(e.Forward.SrcIP, e.Forward.SrcPort),
		end(e.Forward.DstIP, e.Forward.DstPort)}
}

// tracks are the ports of [verify.SourcePorts] that an entry has. What begins with one of them could be taken for what
// the entry is of, and is then not asked for by NAT; or has its port translated, since the answers' ends are taken.
func tracks(all map[flow]verify.Entry) map[uint16]bool {
	ports := map[uint16]bool{}
	for f, e := range all {
		for _, port := range []uint16{f.src.Port(), f.dst.Port(), e.To.Port()} {
			ports[port] = true
		}
	}
	return ports
}

func end(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

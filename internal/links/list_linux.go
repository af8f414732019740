package links

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// List lists the interfaces and their addresses. Call it on a thread that is
// locked to the namespace.
func List() ([]Link, error) {
	links, err := Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the interfaces of the namespace: %w", err)
	}
	addrs, err := Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the addresses of the namespace: %w", err)
	}
	of := map[int][]netip.Addr{}
	for _, a := range addrs {
		if a.IPNet == nil {
			continue // of a family that the library does not know
		}
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			of[a.LinkIndex] = append(of[a.LinkIndex], addr)
		}
	}
	all := make([]Link, len(links))
	for i, l := range links {
		a := l.Attrs()
		all[i] = Link{a.Name, a.AltNames, of[a.Index], a.Flags&net.FlagUp != 0}
	}
	return all, nil
}

// Whole makes a listing of package netlink again that a change has interrupted
// (NLM_F_DUMP_INTR), which can have left out anything. It fails with
// [netlink.ErrDumpInterrupted] if a hundred of them were interrupted.
func Whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range 100 {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

package links

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	direct "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/nlsock"
)

// List lists the interfaces and their addresses. Call it on a thread that is
// locked to the namespace.
func List() (all []Link, err error) {
	conn, err := nlsock.Dial(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return nil, fmt.Errorf("list the interfaces of the namespace: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	links, err := conn.Execute(request(unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC)))
	if err != nil {
		return nil, fmt.Errorf("list the interfaces of the namespace: %w", err)
	}
	addrs, err := conn.Execute(request(unix.RTM_GETADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC)))
	if err != nil {
		return nil, fmt.Errorf("list the addresses of the namespace: %w", err)
	}
	return Read(links, addrs)
}

func request(typ int, header nl.NetlinkRequestData) direct.Message {
	return direct.Message{
		Header: direct.Header{Type: direct.HeaderType(typ), Flags: direct.Request | direct.Dump}, Data: header.Serialize(),
	}
}

// Read reads what the kernel answers to RTM_GETLINK and RTM_GETADDR (rtnetlink(7)).
func Read(links, addrs []direct.Message) (all []Link, err error) {
	at := map[int32]int{} // in all, by their numbers
	err = each(links, unix.SizeofIfInfomsg, func(header []byte, attrs []direct.Attribute) error {
		info := nl.DeserializeIfInfomsg(header)
		l := Link{Up: info.Flags&unix.IFF_UP != 0}
		for _, a := range attrs {
			switch a.Type &^ unix.NLA_F_NESTED {
			case unix.IFLA_IFNAME:
				l.Name = text(a.Data)
			case unix.IFLA_PROP_LIST:
				names, err := direct.UnmarshalAttributes(a.Data)
				if err != nil {
					return err
				}
				for _, n := range names {
					if n.Type == unix.IFLA_ALT_IFNAME {
						l.AltNames = append(l.AltNames, text(n.Data))
					}
				}
			}
		}
		at[info.Index] = len(all)
		all = append(all, l)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the interfaces of the namespace: %w", err)
	}
	err = each(addrs, unix.SizeofIfAddrmsg, func(header []byte, attrs []direct.Attribute) error {
		i, known := at[int32(binary.NativeEndian.Uint32(header[4:]))]
		if addr := addressOf(attrs); known && addr.IsValid() {
			all[i].Addrs = append(all[i].Addrs, addr)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the addresses of the namespace: %w", err)
	}
	return all, nil
}

// each hands each answer's header and attributes to f.
func each(replies []direct.Message, size int, f func(header []byte, attrs []direct.Attribute) error) error {
	for _, m := range replies {
		if len(m.Data) < size {
			return fmt.Errorf("%w: the kernel describes one in %d bytes", unix.EBADMSG, len(m.Data))
		}
		attrs, err := direct.UnmarshalAttributes(m.Data[size:])
		if err == nil {
			err = f(m.Data[:size], attrs)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addressOf is the interface's own address: the local one, and of IPv6 without a peer the one that there is.
func addressOf(attrs []direct.Attribute) (addr netip.Addr) {
	for _, a := range attrs {
		if a.Type == unix.IFA_LOCAL || a.Type == unix.IFA_ADDRESS && !addr.IsValid() {
			addr, _ = netip.AddrFromSlice(a.Data)
		}
	}
	return addr
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

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

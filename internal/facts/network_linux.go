package facts

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	direct "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"encoding/binary"

	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/nlsock"
	"github.com/mesh-intercept/intercept/internal/sockets"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Interfaces lists the interfaces and their addresses.
func Interfaces() ([]Interface, error) {
	list, err := links.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list the interfaces: %w", err)
	}
	addrs, err := links.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	names := map[int]string{}
	for _, l := range list {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	all := make([]Interface, len(list))
	for i, l := range list {
		a := l.Attrs()
		all[i] = Interface{Name: a.Name, Kind: l.Type(), Index: a.Index, Master: names[a.MasterIndex], MTU: a.MTU,
			Up: a.Flags&net.FlagUp != 0, State: a.OperState.String(), Addresses: []string{}}
		for _, addr := range addrs {
			if addr.LinkIndex == a.Index && addr.IPNet != nil {
				all[i].Addresses = append(all[i].Addresses, addr.IPNet.String())
			}
		}
	}
	return all, nil
}

// linkNames are the interfaces' names by their numbers. What cannot be found out has none.
func linkNames() map[uint32]string {
	names := map[uint32]string{}
	list, _ := links.Whole(netlink.LinkList)
	for _, l := range list {
		names[uint32(l.Attrs().Index)] = l.Attrs().Name
	}
	return names
}

// each asks for all routes, or rules, of both families and calls fn with the header, which is of one size for both
// (linux/rtnetlink.h, linux/fib_rules.h), and the attributes of each.
func each(typ uint16, fn func(header []byte, attrs []direct.Attribute)) error {
	c, err := nlsock.Dial(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		request := make([]byte, unix.SizeofRtMsg)
		request[0] = family
		replies, err := c.Execute(direct.Message{
			Header: direct.Header{Type: direct.HeaderType(typ), Flags: direct.Request | direct.Dump}, Data: request})
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // the kernel has no such family, or no rules
		}
		if err != nil {
			return err
		}
		for _, m := range replies {
			if len(m.Data) < unix.SizeofRtMsg || m.Data[0] != family {
				continue
			}
			attrs, err := direct.UnmarshalAttributes(m.Data[unix.SizeofRtMsg:])
			if err != nil {
				return err
			}
			fn(m.Data[:unix.SizeofRtMsg], attrs)
		}
	}
	return nil
}

func familyOf(header []byte) string {
	if header[0] == unix.AF_INET {
		return ruleset.IPv4.String()
	}
	return ruleset.IPv6.String()
}

// prefix is an address, or all of them, with a length.
func prefix(header []byte, address []byte, bits byte) string {
	a, ok := netip.AddrFromSlice(address)
	switch {
	case !ok && header[0] == unix.AF_INET:
		a = netip.IPv4Unspecified()
	case !ok:
		a = netip.IPv6Unspecified()
	}
	return netip.PrefixFrom(a, int(bits)).String()
}

func addressText(data []byte) string {
	if a, ok := netip.AddrFromSlice(data); ok {
		return a.String()
	}
	return ""
}

func number(data []byte) uint32 {
	if len(data) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(data)
}

// Routes lists the routes of all tables.
func Routes() (all []Route, err error) {
	names := linkNames()
	types := []string{"unspecified", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable",
		"prohibit", "throw", "nat"}
	err = each(unix.RTM_GETROUTE, func(h []byte, attrs []direct.Attribute) {
		r := Route{Family: familyOf(h), Destination: prefix(h, nil, h[1]), Table: uint32(h[4]), Protocol: h[5]}
		r.Type = fmt.Sprint(h[7])
		if int(h[7]) < len(types) {
			r.Type = types[h[7]]
		}
		for _, a := range attrs {
			switch a.Type {
			case unix.RTA_DST:
				r.Destination = prefix(h, a.Data, h[1])
			case unix.RTA_GATEWAY:
				r.Gateway = addressText(a.Data)
			case unix.RTA_VIA: // struct rtvia: of another family
				if len(a.Data) > 2 {
					r.Gateway = addressText(a.Data[2:])
				}
			case unix.RTA_OIF:
				r.Device = names[number(a.Data)]
			case unix.RTA_PREFSRC:
				r.Source = addressText(a.Data)
			case unix.RTA_TABLE:
				r.Table = number(a.Data)
			case unix.RTA_PRIORITY:
				r.Metric = number(a.Data)
			case unix.RTA_MULTIPATH:
				r.Several = true
			}
		}
		all = append(all, r)
	})
	return all, wrap("list the routes", err)
}

// Rules lists the rules of ip-rule(8).
func Rules() (all []Rule, err error) {
	actions := []string{"none", "lookup", "goto", "nop", "3", "4", "blackhole", "unreachable", "prohibit"}
	err = each(unix.RTM_GETRULE, func(h []byte, attrs []direct.Attribute) {
		r := Rule{Family: familyOf(h), Table: uint32(h[4]), Not: h[8]&unix.FIB_RULE_INVERT != 0}
		r.Action = fmt.Sprint(h[7])
		if int(h[7]) < len(actions) {
			r.Action = actions[h[7]]
		}
		if h[3] != 0 {
			r.Others++ // the type of service
		}
		mark, mask, asked := uint32(0), uint32(1<<32-1), false
		for _, a := range attrs {
			switch a.Type {
			case unix.FRA_SRC:
				r.From = prefix(h, a.Data, h[2])
			case unix.FRA_DST:
				r.To = prefix(h, a.Data, h[1])
			case unix.FRA_TABLE:
				r.Table = number(a.Data)
			case unix.FRA_PRIORITY:
				r.Priority = number(a.Data)
			case unix.FRA_FWMARK:
				mark, asked = number(a.Data), true
			case unix.FRA_FWMASK:
				mask = number(a.Data)
			case unix.FRA_IIFNAME:
				r.In = unix.ByteSliceToString(a.Data)
			case unix.FRA_OIFNAME:
				r.Out = unix.ByteSliceToString(a.Data)
			case unix.FRA_UID_RANGE:
				if len(a.Data) >= 8 {
					r.Users = fmt.Sprintf("%d-%d", number(a.Data), number(a.Data[4:]))
				}
			case unix.FRA_PROTOCOL, unix.FRA_SUPPRESS_PREFIXLEN, unix.FRA_SUPPRESS_IFGROUP, unix.FRA_GOTO:
			default:
				r.Others++
			}
		}
		if asked && mask != 0 {
			r.Mark = fmt.Sprintf("%#x/%#x", mark, mask)
		}
		all = append(all, r)
	})
	return all, wrap("list the rules of routing", err)
}

// Listeners lists the sockets that wait for anybody.
func Listeners() ([]Listener, error) {
	all := []Listener{}
	inodes := map[uint64]bool{}
	var found [2][]sockets.Socket
	protocols := []ruleset.Protocol{ruleset.TCP, ruleset.UDP}
	for i, p := range protocols {
		list, err := sockets.List(p)
		if err != nil {
			return nil, err
		}
		for _, s := range list {
			inodes[s.Inode] = true
		}
		found[i] = list
	}
	processes := sockets.Processes(inodes)
	for i, list := range found {
		for _, s := range list {
			p := processes[s.Inode]
			all = append(all, Listener{protocols[i].String(), s.Local.String(), s.UID, p.PID, p.Name})
		}
	}
	return all, nil
}

func wrap(attempted string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", attempted, err)
	}
	return nil
}

// Sysctls reads the settings that matter. What this kernel does not have is left out.
func Sysctls() (map[string]string, error) {
	all := map[string]string{}
	var errs []error
	for _, name := range sysctlNames() {
		value, err := readFile("/proc/sys/" + name)
		if err == nil {
			all[name] = value
		} else if !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}

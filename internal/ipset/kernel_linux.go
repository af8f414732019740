package ipset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/nlattr"
	"github.com/mesh-intercept/intercept/internal/nlsock"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Requests are made here, with the constants of vishvananda/netlink. Its own functions for sets do not say how large one
// will be, so that it grows, and at each step the kernel waits for all readers; they add one member a message; they list
// all members of all sets, somebody's millions, too; and they panic at an error that is no number.

// Conn speaks with the kernel about the sets of the namespace in which it was opened. It is for one goroutine at a time.
type Conn struct{ sock *netlink.Conn }

// Open opens a Conn for the namespace of the calling thread. Where the kernel has no netlink for netfilter, and so no
// sets, the error is a [ruleset.ModulesError].
func Open() (*Conn, error) {
	sock, err := nlsock.Dial(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket for sets: %w", judge(err))
	}
	return &Conn{sock}, nil
}

// Close closes the Conn.
func (c *Conn) Close() error { return c.sock.Close() }

// Loaded reports whether the kernel can have sets now: without the module there is none, and to ask for one would load
// it.
func Loaded() bool {
	_, err := os.Stat("/sys/module/ip_set")
	if err != nil {
		_, unknown := os.Stat("/sys/module")
		return unknown != nil
	}
	return true
}

// Can asks whether the kernel has the types of sets that are made here. It loads their modules. The error is a
// [ruleset.ModulesError], or [ruleset.ErrPermission].
func (c *Conn) Can() error {
	for _, s := range []Set{{family: ruleset.IPv4}, {}} {
		_, err := c.ask(nl.IPSET_CMD_TYPE, netlink.Request, func(e *netlink.AttributeEncoder) {
			e.String(nl.IPSET_ATTR_TYPENAME, s.typeName())
			e.Uint8(nl.IPSET_ATTR_FAMILY, s.kernelFamily())
		})
		if err = judge(err); errors.Is(err, ruleset.ErrUnsupported) {
			return &ruleset.ModulesError{What: "sets " + s.typeName(),
				Modules: []string{"ip_set", "ip_set_" + strings.ReplaceAll(s.typeName(), ":", "_")}, Err: err}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Types of sets, as the kernel calls them.
const (
	hashNet    = "hash:net"
	bitmapPort = "bitmap:port"
)

// judge says what an answer of the kernel's means.
func judge(err error) error {
	errno, _ := errors.AsType[syscall.Errno](err)
	if errno > nl.IPSET_ERR_PRIVATE {
		err = nl.IPSetError(errno)
	}
	switch errno {
	case nl.IPSET_ERR_FIND_TYPE, unix.EPROTONOSUPPORT, unix.EINVAL: // so says nfnetlink.c of a subsystem that is not there
		return &ruleset.ModulesError{What: "sets of addresses and ports",
			Modules: []string{"ip_set", "ip_set_hash_net", "ip_set_bitmap_port"}, Err: err}
	case nl.IPSET_ERR_MAX_SETS:
		return fmt.Errorf("%w for more sets in this network namespace", ruleset.ErrUnsupported)
	case nl.IPSET_ERR_BUSY, nl.IPSET_ERR_REFERENCED:
		return ErrBusy
	case unix.EPERM:
		return ruleset.NoNetAdmin(err)
	default:
		return err
	}
}

// ask sends a request of the subsystem, and returns the attributes of each answer.
func (c *Conn) ask(command int, flags netlink.HeaderFlags, fill func(*netlink.AttributeEncoder)) (answers [][]byte,
	err error) {
	e := netlink.NewAttributeEncoder()
	e.Uint8(nl.IPSET_ATTR_PROTOCOL, nl.IPSET_PROTOCOL)
	fill(e)
	attrs, err := e.Encode()
	if err != nil {
		return nil, err
	}
	head := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0} // struct nfgenmsg
	var messages []netlink.Message
	const attempts = 5
	for range attempts {
		messages, err = c.sock.Execute(netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_IPSET<<8 | command), Flags: flags},
			Data:   append(head, attrs...),
		})
		if flags&netlink.Acknowledge != 0 || !errors.Is(err, unix.ENOBUFS) {
			break // a question can be asked again
		}
	}
	for _, m := range messages {
		answers = append(answers, m.Data[min(len(head), len(m.Data)):])
	}
	return answers, err
}

// change sends a request that makes, changes or takes out a set.
func (c *Conn) change(command int, fill func(*netlink.AttributeEncoder)) error {
	flags := netlink.Request | netlink.Acknowledge
	if command == nl.IPSET_CMD_CREATE {
		flags |= netlink.Create | netlink.Excl
	}
	_, err := c.ask(command, flags, fill)
	return err
}

// References returns by how many rules each set of ours is asked, by its name. Where the kernel has no sets there are
// none.
func (c *Conn) References() (map[string]int, error) {
	const onlyHeads = 1 << 2 // IPSET_FLAG_LIST_HEADER
	answers, err := c.ask(nl.IPSET_CMD_LIST, netlink.Request|netlink.Dump, func(e *netlink.AttributeEncoder) {
		e.ByteOrder = binary.BigEndian
		e.Uint32(nl.IPSET_ATTR_FLAGS|netlink.NetByteOrder, onlyHeads)
	})
	if err = judge(err); errors.Is(err, ruleset.ErrUnsupported) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the names of sets: %w", err)
	}
	all := map[string]int{}
	for _, answer := range answers {
		name := ""
		for typ, value := range nlattr.All(answer) {
			switch {
			case typ == nl.IPSET_ATTR_SETNAME && IsOurs(text(value)):
				name = text(value)
				all[name] = 0
			case typ == nl.IPSET_ATTR_DATA && name != "":
				for typ, value := range nlattr.All(value) {
					if typ == nl.IPSET_ATTR_REFERENCES && len(value) == 4 {
						all[name] = int(binary.BigEndian.Uint32(value))
					}
				}
			}
		}
	}
	return all, nil
}

// Look compares what the kernel has under the name of a set with the set.
func (c *Conn) Look(s Set) (Content, error) {
	answers, err := c.ask(nl.IPSET_CMD_LIST, netlink.Request|netlink.Dump, func(e *netlink.AttributeEncoder) {
		e.String(nl.IPSET_ATTR_SETNAME, s.name)
	})
	if errors.Is(err, unix.ENOENT) {
		return Missing, nil
	}
	if err != nil {
		return Missing, s.explain("list", judge(err))
	}
	members, odd := 0, false
	for _, answer := range answers {
		for typ, value := range nlattr.All(answer) {
			switch typ {
			case nl.IPSET_ATTR_TYPENAME:
				odd = odd || text(value) != s.typeName()
			case nl.IPSET_ATTR_FAMILY:
				odd = odd || !bytes.Equal(value, []byte{s.kernelFamily()})
			case nl.IPSET_ATTR_DATA:
				odd = odd || !isPlain(value)
			case nl.IPSET_ATTR_ADT:
				for _, member := range nlattr.All(value) {
					members++
					odd = odd || !s.holds(member)
				}
			}
		}
	}
	if odd || members != s.Len() {
		return Other, nil
	}
	return Whole, nil
}

// text is that of an attribute, which ends in a zero.
func text(value []byte) string { return string(bytes.TrimSuffix(value, []byte{0})) }

// isPlain reports whether members of a set stay, and stand for themselves alone.
func isPlain(header []byte) bool {
	for typ := range nlattr.All(header) {
		switch typ {
		case nl.IPSET_ATTR_TIMEOUT, nl.IPSET_ATTR_NETMASK, nl.IPSET_ATTR_MARKMASK, nl.IPSET_ATTR_CADT_FLAGS:
			return false
		}
	}
	return true
}

// holds reports whether a member that the kernel lists is one of the set's.
func (s Set) holds(member []byte) bool {
	var addr netip.Addr
	port, bits := -1, -1
	for typ, value := range nlattr.All(member) {
		switch {
		case typ == nl.IPSET_ATTR_IP:
			for _, a := range nlattr.All(value) {
				addr, _ = netip.AddrFromSlice(a)
			}
		case typ == nl.IPSET_ATTR_CIDR && len(value) == 1:
			bits = int(value[0])
		case typ == nl.IPSET_ATTR_PORT && len(value) == 2:
			port = int(binary.BigEndian.Uint16(value))
		default:
			return false
		}
	}
	if s.family == 0 {
		return port >= 0 && s.hasPort(uint16(port))
	}
	return s.has(netip.PrefixFrom(addr, bits))
}

func (s Set) typeName() string {
	if s.family == 0 {
		return bitmapPort
	}
	return hashNet
}

func (s Set) kernelFamily() byte {
	switch s.family {
	case ruleset.IPv4:
		return unix.NFPROTO_IPV4
	case ruleset.IPv6:
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_UNSPEC
}

// Make sees to it that there is a set with what should be in it, and reports whether that took a change. What is there
// under its name with other members is replaced in one step: rules ask the one or the other. The error is
// [ruleset.ErrUnsupported] if the kernel has no such sets, or no room for one more.
func (c *Conn) Make(s Set) (changed bool, err error) {
	const attempts = 5
	for range attempts {
		var found Content
		if found, err = c.Look(s); err != nil {
			return changed, err
		}
		switch found {
		case Whole:
			return changed, nil
		case Missing:
			err = c.fill(s, s.name)
		case Other:
			err = c.replace(s)
		}
		changed = true
		// Of what the answer was lost it is not known whether it was done. Somebody else may have been quicker.
		if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EEXIST) {
			return changed, s.explain("make", judge(err))
		}
	}
	return changed, s.explain("make", err)
}

// replace puts the set in the place of another of its name.
func (c *Conn) replace(s Set) error {
	other := spare(s.name)
	err := c.Destroy(other) // somebody may have been killed
	if err == nil {
		err = c.fill(s, other)
	}
	if err == nil {
		err = c.change(nl.IPSET_CMD_SWAP, func(e *netlink.AttributeEncoder) {
			e.String(nl.IPSET_ATTR_SETNAME, other)
			e.String(nl.IPSET_ATTR_SETNAME2, s.name)
		})
	}
	return errors.Join(err, c.Destroy(other))
}

// fill makes a set and adds its members.
func (c *Conn) fill(s Set, name string) error {
	err := c.change(nl.IPSET_CMD_CREATE, func(e *netlink.AttributeEncoder) {
		e.String(nl.IPSET_ATTR_SETNAME, name)
		e.String(nl.IPSET_ATTR_TYPENAME, s.typeName())
		e.Uint8(nl.IPSET_ATTR_REVISION, 0) // the first, which each kernel has
		e.Uint8(nl.IPSET_ATTR_FAMILY, s.kernelFamily())
		e.Nested(nl.IPSET_ATTR_DATA, s.size)
	})
	if err != nil {
		return err
	}
	// What is in a nested attribute is at most 64 KiB long, and an error comes back with all of it.
	const most = 32 << 10
	var members []byte
	flush := func(from int) error {
		if len(members) < from {
			return nil
		}
		err := c.change(nl.IPSET_CMD_ADD, func(e *netlink.AttributeEncoder) {
			e.String(nl.IPSET_ATTR_SETNAME, name)
			e.ByteOrder = binary.BigEndian
			e.Uint32(nl.IPSET_ATTR_LINENO|netlink.NetByteOrder, 0)
			e.Bytes(nl.IPSET_ATTR_ADT|netlink.Nested, members)
		})
		members = members[:0]
		return err
	}
	addrType := uint16(nl.IPSET_ATTR_IPADDR_IPV4)
	if s.family == ruleset.IPv6 {
		addrType = nl.IPSET_ATTR_IPADDR_IPV6
	}
	for _, p := range s.nets {
		addr := p.Addr().AsSlice()
		members = head(members, nl.IPSET_ATTR_DATA|netlink.Nested, attrSize(attrSize(len(addr)))+attrSize(1))
		members = head(members, nl.IPSET_ATTR_IP|netlink.Nested, attrSize(len(addr)))
		members = append(head(members, addrType|netlink.NetByteOrder, len(addr)), addr...)
		members = append(head(members, nl.IPSET_ATTR_CIDR, 1), byte(p.Bits()), 0, 0, 0)
		if err := flush(most); err != nil {
			return err
		}
	}
	for _, r := range s.ports {
		members = head(members, nl.IPSET_ATTR_DATA|netlink.Nested, 2*attrSize(2))
		for typ, port := range map[uint16]uint16{nl.IPSET_ATTR_PORT_FROM: r.First, nl.IPSET_ATTR_PORT_TO: r.Last} {
			members = append(head(members, typ|netlink.NetByteOrder, 2), byte(port>>8), byte(port), 0, 0)
		}
		if err := flush(most); err != nil {
			return err
		}
	}
	return flush(1)
}

// head appends the head of an attribute whose value is so long.
func head(b []byte, typ uint16, size int) []byte {
	return binary.NativeEndian.AppendUint16(binary.NativeEndian.AppendUint16(b, uint16(unix.NLA_HDRLEN+size)), typ)
}

// attrSize is how much room an attribute takes whose value is so long.
func attrSize(size int) int { return unix.NLA_HDRLEN + (size+3)&^3 }

// size says how large the set is going to be.
func (s Set) size(e *netlink.AttributeEncoder) error {
	e.ByteOrder = binary.BigEndian
	if s.family == 0 {
		e.Uint16(nl.IPSET_ATTR_PORT_FROM|netlink.NetByteOrder, s.ports[0].First)
		e.Uint16(nl.IPSET_ATTR_PORT_TO|netlink.NetByteOrder, s.ports[len(s.ports)-1].Last)
		return nil
	}
	e.Uint32(nl.IPSET_ATTR_HASHSIZE|netlink.NetByteOrder, uint32(len(s.nets))) // it takes the next power of two
	e.Uint32(nl.IPSET_ATTR_MAXELEM|netlink.NetByteOrder, uint32(len(s.nets)))
	return nil
}

// Destroy takes a set out. One that is not there is none the less gone. The error is [ErrBusy] if a rule asks it.
func (c *Conn) Destroy(name string) error {
	const attempts = 5
	var err error
	for range attempts {
		err = c.change(nl.IPSET_CMD_DESTROY, func(e *netlink.AttributeEncoder) { e.String(nl.IPSET_ATTR_SETNAME, name) })
		if !errors.Is(err, unix.ENOBUFS) {
			break
		}
	}
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("destroy the set %s: %w", name, judge(err))
}

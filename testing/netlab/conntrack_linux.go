package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

// Entry is an entry of connection tracking, as it can be left by packets that
// were sent earlier: made by the packet from Src to Dst.
type Entry struct {
	// Protocol is TCP or UDP.
	Protocol intercept.Protocol
	Src, Dst netip.AddrPort
	// TCP is the state of a TCP connection. Zero stands for TCPEstablished.
	TCP TCPState
	// Answered says that a packet from Dst to Src was seen.
	Answered bool
	// To is where the entry translates the destination to. The zero one does
	// not translate.
	To netip.AddrPort
	// Zone is the entry's conntrack zone, and Mark its mark.
	Zone uint16
	Mark uint32
}

// TCPState is connection tracking's state of a TCP connection, by the numbers
// of linux/netfilter/nf_conntrack_tcp.h.
type TCPState uint8

// The states of connections that tests begin from.
const (
	TCPSynSent     TCPState = nl.TCP_CONNTRACK_SYN_SENT
	TCPEstablished TCPState = nl.TCP_CONNTRACK_ESTABLISHED
)

// Attributes and bits that package nl has no names for
// (linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_common.h).
const (
	ctaNATDst       = 13
	ctaNATv4Min     = 1
	ctaNATProto     = 3
	ctaNATv6Min     = 4
	ctaProtoNATMin  = 1
	ctaProtoNATMax  = 2
	statusSeenReply = 1 << 1
	statusAssured   = 1 << 2
	statusConfirmed = 1 << 3
	entryTimeout    = 100 // seconds
)

// AddEntry makes an entry in the namespace's connection tracking. An error is
// that of the kernel, such as EEXIST for one that is there.
func (n *Namespace) AddEntry(e Entry) error {
	_, err := n.addEntries(func(yield func(Entry) bool) { yield(e) }, func(err error) error { return err })
	if err != nil {
		return fmt.Errorf("netlab: add %s %s > %s to connection tracking: %w", e.Protocol, e.Src, e.Dst, err)
	}
	return nil
}

// FillEntries makes entries, many at a time, until there are no more or until
// the table is full. It returns whether it is full, and how many there are. What
// is there already is passed over.
func (n *Namespace) FillEntries(entries iter.Seq[Entry]) (full bool, made int, err error) {
	made, err = n.addEntries(entries, func(err error) error {
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	})
	if full = errors.Is(err, unix.ENOMEM); full {
		return true, made, nil
	}
	if err != nil {
		err = fmt.Errorf("netlab: fill connection tracking: %w", err)
	}
	return false, made, err
}

// addEntries makes entries, and has each refusal of the kernel's judged. It ends with the first error that is left, and
// returns how many it has made.
func (n *Namespace) addEntries(entries iter.Seq[Entry], judge func(error) error) (made int, err error) {
	fd := -1
	err = n.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	const batch = 100 // of which the refusals fit into a socket's buffer
	answer := make([]byte, 4096)
	var some attrs
	waiting := 0
	// Of what is refused, and of that alone, the kernel tells before sendto returns.
	flush := func() error {
		if err := unix.Sendto(fd, some, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return os.NewSyscallError("sendto", err)
		}
		made += waiting
		some, waiting = some[:0], 0
		var first error
		for {
			size, _, err := unix.Recvfrom(fd, answer, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return first
			case err != nil:
				return os.NewSyscallError("recvfrom", err)
			case size < unix.NLMSG_HDRLEN+4:
				return fmt.Errorf("an answer of %d bytes", size)
			}
			made--
			refusal := unix.Errno(-int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])))
			if err := judge(refusal); first == nil {
				first = err
			}
		}
	}
	for e := range entries {
		some = e.request(some)
		if waiting++; waiting == batch {
			if err := flush(); err != nil {
				return made, err
			}
		}
	}
	if waiting == 0 {
		return made, nil
	}
	return made, flush()
}

// request appends the message that asks the kernel for the entry.
func (e Entry) request(b attrs) attrs {
	begin := len(b)
	family := uint8(unix.AF_INET)
	if e.Dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	const message = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_NEW
	const flags = unix.NLM_F_REQUEST | unix.NLM_F_CREATE | unix.NLM_F_EXCL
	b = append(b, 0, 0, 0, 0) // the length, when it is known
	b = binary.NativeEndian.AppendUint16(b, message)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = append(b, make([]byte, 8)...)              // sequence and port
	b = append(b, family, unix.NFNETLINK_V0, 0, 0) // struct nfgenmsg
	b = b.tuple(nl.CTA_TUPLE_ORIG, e.Protocol, e.Src, e.Dst)
	b = b.tuple(nl.CTA_TUPLE_REPLY, e.Protocol, e.Dst, e.Src)
	status := uint32(statusConfirmed)
	if e.Answered {
		status |= statusSeenReply | statusAssured
	}
	b = b.add(nl.CTA_STATUS, nl.BEUint32Attr(status)...)
	b = b.add(nl.CTA_TIMEOUT, nl.BEUint32Attr(entryTimeout)...)
	if e.Protocol == intercept.TCP {
		state := e.TCP
		if state == 0 {
			state = TCPEstablished
		}
		b = b.nest(nl.CTA_PROTOINFO, func(b attrs) attrs {
			return b.nest(nl.CTA_PROTOINFO_TCP, func(b attrs) attrs {
				return b.add(nl.CTA_PROTOINFO_TCP_STATE, uint8(state))
			})
		})
	}
	if e.To.IsValid() {
		b = b.translation(e.To)
	}
	if e.Zone != 0 {
		b = b.add(nl.CTA_ZONE, nl.BEUint16Attr(e.Zone)...)
	}
	if e.Mark != 0 {
		b = b.add(nl.CTA_MARK, nl.BEUint32Attr(e.Mark)...)
	}
	binary.NativeEndian.PutUint32(b[begin:], uint32(len(b)-begin))
	return b
}

// FlushEntries has the namespace's connection tracking forget everything, as
// conntrack -F does.
func (n *Namespace) FlushEntries() error {
	return n.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
}

// attrs are attributes of a netlink message. Package nl makes each of them an object, which takes ten times as long as
// the kernel takes for an entry.
type attrs []byte

// add appends an attribute.
func (b attrs) add(typ uint16, data ...byte) attrs {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(data)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), data...)
	for len(b)%unix.NLA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b
}

// nest appends an attribute that holds others.
func (b attrs) nest(typ uint16, fill func(attrs) attrs) attrs {
	at := len(b)
	b = fill(b.add(typ | unix.NLA_F_NESTED))
	binary.NativeEndian.PutUint16(b[at:], uint16(len(b)-at))
	return b
}

// tuple appends one direction of an entry.
func (b attrs) tuple(typ uint16, p intercept.Protocol, src, dst netip.AddrPort) attrs {
	from, to := uint16(nl.CTA_IP_V4_SRC), uint16(nl.CTA_IP_V4_DST)
	if dst.Addr().Is6() {
		from, to = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	return b.nest(typ, func(b attrs) attrs {
		b = b.nest(nl.CTA_TUPLE_IP, func(b attrs) attrs {
			return b.add(from, src.Addr().AsSlice()...).add(to, dst.Addr().AsSlice()...)
		})
		return b.nest(nl.CTA_TUPLE_PROTO, func(b attrs) attrs {
			return b.add(nl.CTA_PROTO_NUM, uint8(p)).
				add(nl.CTA_PROTO_SRC_PORT, nl.BEUint16Attr(src.Port())...).
				add(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(dst.Port())...)
		})
	})
}

// translation appends the destination of an entry that has another than its first packet.
func (b attrs) translation(to netip.AddrPort) attrs {
	addr := uint16(ctaNATv4Min)
	if to.Addr().Is6() {
		addr = ctaNATv6Min
	}
	return b.nest(ctaNATDst, func(b attrs) attrs {
		return b.add(addr, to.Addr().AsSlice()...).nest(ctaNATProto, func(b attrs) attrs {
			return b.add(ctaProtoNATMin, nl.BEUint16Attr(to.Port())...).add(ctaProtoNATMax, nl.BEUint16Attr(to.Port())...)
		})
	})
}

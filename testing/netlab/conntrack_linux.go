package netlab

import (
	"encoding/binary"
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
	req := e.request(unix.NLM_F_ACK)
	err := n.Do(func() error {
		_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("netlab: add %s %s > %s to connection tracking: %w", e.Protocol, e.Src, e.Dst, err)
	}
	return nil
}

// FillEntries makes entries, many at a time, until there are no more or until
// the table is full. It returns whether it is full, and how many there are. What
// is there already is passed over.
func (n *Namespace) FillEntries(entries iter.Seq[Entry]) (full bool, made int, err error) {
	const batch = 100
	var socket *nl.NetlinkSocket
	if err := n.Do(func() (err error) { socket, err = nl.Subscribe(unix.NETLINK_NETFILTER); return err }); err != nil {
		return false, 0, fmt.Errorf("netlab: fill connection tracking: %w", err)
	}
	defer socket.Close()
	var some []byte
	waiting := 0
	// The kernel answers each of a batch before it returns.
	flush := func() error {
		if err := unix.Sendto(socket.GetFd(), some, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return os.NewSyscallError("sendto", err)
		}
		for ; waiting > 0; waiting-- {
			answers, _, err := socket.Receive()
			if err != nil {
				return err
			}
			for i, a := range answers {
				if i > 0 {
					waiting--
				}
				switch errno := unix.Errno(-int32(binary.NativeEndian.Uint32(a.Data))); errno {
				case 0:
					made++
				case unix.EEXIST:
				case unix.ENOMEM:
					full = true
				default:
					return errno
				}
			}
		}
		some = some[:0]
		return nil
	}
	for e := range entries {
		some = append(some, e.request(unix.NLM_F_ACK).Serialize()...)
		if waiting++; waiting == batch {
			if err = flush(); err != nil || full {
				break
			}
		}
	}
	if err == nil && waiting > 0 {
		err = flush()
	}
	if err != nil {
		err = fmt.Errorf("netlab: fill connection tracking: %w", err)
	}
	return full, made, err
}

// request asks the kernel for the entry.
func (e Entry) request(flags int) *nl.NetlinkRequest {
	family := uint8(unix.AF_INET)
	if e.Dst.Addr().Is6() {
		family = unix.AF_INET6
	}
	const message = unix.NFNL_SUBSYS_CTNETLINK<<8 | nl.IPCTNL_MSG_CT_NEW
	req := nl.NewNetlinkRequest(message, unix.NLM_F_CREATE|unix.NLM_F_EXCL|flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	req.AddData(tuple(nl.CTA_TUPLE_ORIG, e.Protocol, e.Src, e.Dst))
	req.AddData(tuple(nl.CTA_TUPLE_REPLY, e.Protocol, e.Dst, e.Src))
	status := uint32(statusConfirmed)
	if e.Answered {
		status |= statusSeenReply | statusAssured
	}
	req.AddData(nl.NewRtAttr(nl.CTA_STATUS, nl.BEUint32Attr(status)))
	req.AddData(nl.NewRtAttr(nl.CTA_TIMEOUT, nl.BEUint32Attr(entryTimeout)))
	if e.Protocol == intercept.TCP {
		state := e.TCP
		if state == 0 {
			state = TCPEstablished
		}
		info := nested(nl.CTA_PROTOINFO)
		tcp := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_PROTOINFO_TCP, nil)
		tcp.AddRtAttr(nl.CTA_PROTOINFO_TCP_STATE, nl.Uint8Attr(uint8(state)))
		info.AddChild(tcp)
		req.AddData(info)
	}
	if e.To.IsValid() {
		req.AddData(translation(e.To))
	}
	if e.Zone != 0 {
		req.AddData(nl.NewRtAttr(nl.CTA_ZONE, nl.BEUint16Attr(e.Zone)))
	}
	if e.Mark != 0 {
		req.AddData(nl.NewRtAttr(nl.CTA_MARK, nl.BEUint32Attr(e.Mark)))
	}
	return req
}

// FlushEntries has the namespace's connection tracking forget everything, as
// conntrack -F does.
func (n *Namespace) FlushEntries() error {
	return n.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
}

func nested(typ int) *nl.RtAttr { return nl.NewRtAttr(unix.NLA_F_NESTED|typ, nil) }

// tuple is one direction of an entry.
func tuple(typ int, p intercept.Protocol, src, dst netip.AddrPort) *nl.RtAttr {
	from, to := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if dst.Addr().Is6() {
		from, to = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	ip, proto := nested(nl.CTA_TUPLE_IP), nested(nl.CTA_TUPLE_PROTO)
	ip.AddRtAttr(from, src.Addr().AsSlice())
	ip.AddRtAttr(to, dst.Addr().AsSlice())
	proto.AddRtAttr(nl.CTA_PROTO_NUM, nl.Uint8Attr(uint8(p)))
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, nl.BEUint16Attr(src.Port()))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, nl.BEUint16Attr(dst.Port()))
	all := nested(typ)
	all.AddChild(ip)
	all.AddChild(proto)
	return all
}

// translation is the destination of an entry that has another than its first packet.
func translation(to netip.AddrPort) *nl.RtAttr {
	addr := ctaNATv4Min
	if to.Addr().Is6() {
		addr = ctaNATv6Min
	}
	ports := nested(ctaNATProto)
	ports.AddRtAttr(ctaProtoNATMin, nl.BEUint16Attr(to.Port()))
	ports.AddRtAttr(ctaProtoNATMax, nl.BEUint16Attr(to.Port()))
	all := nested(ctaNATDst)
	all.AddRtAttr(addr, to.Addr().AsSlice())
	all.AddChild(ports)
	return all
}

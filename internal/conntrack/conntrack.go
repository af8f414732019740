// Package conntrack reads what connection tracking knows of connections, as the kernel describes it over netlink
// (ctnetlink), and takes entries out.
//
// netlink.ConntrackTableList keeps all of a namespace's entries at once, some 600 bytes for each, and a gateway has
// 200,000. Here an entry is read when it comes, and is kept by whoever needs it.
package conntrack

import (
	"net/netip"

	"github.com/mesh-intercept/intercept/internal/nlattr"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Ends are a packet's addresses and ports.
type Ends struct {
	Protocol ruleset.Protocol
	Src, Dst netip.AddrPort
}

// Reverse are the ends of a packet that answers.
func (e Ends) Reverse() Ends { return Ends{Protocol: e.Protocol, Src: e.Dst, Dst: e.Src} }

// Entry is a connection as conntrack knows it.
type Entry struct {
	// Original is of the packets in the direction of the first, as they were before NAT; Reply of those that answer, as
	// they come. Protocols without ports have those zero.
	Original, Reply Ends
	// TCPState is conntrack's, as conntrack(8) calls it, or empty.
	TCPState string
	Mark     uint32
	Zone     uint16
	// Status are the bits of enum ip_conntrack_status.
	Status uint32
}

// Translated reports where the destination has been sent by NAT, and whether it has been.
func (e Entry) Translated() (to netip.AddrPort, is bool) {
	return e.Reply.Src, e.Reply.Src != e.Original.Dst
}

// Decode reads the attributes of a message of ctnetlink (enum ctattr_type of linux/netfilter/nfnetlink_conntrack.h): what
// follows struct nfgenmsg.
func Decode(body []byte) (e Entry) {
	for typ, data := range nlattr.All(body) {
		switch typ {
		case 1:
			e.Original = decodeTuple(data)
		case 2:
			e.Reply = decodeTuple(data)
		case 3:
			e.Status = nlattr.Number[uint32](data)
		case 4:
			for typ, data := range nlattr.All(data) {
				for inner, data := range nlattr.All(data) {
					if typ == 1 && inner == 1 && len(data) == 1 {
						e.TCPState = tcpState(data[0])
					}
				}
			}
		case 8:
			e.Mark = nlattr.Number[uint32](data)
		case 18:
			e.Zone = nlattr.Number[uint16](data)
		}
	}
	return e
}

// decodeTuple reads enum ctattr_tuple.
func decodeTuple(body []byte) (e Ends) {
	var src, dst netip.Addr
	var from, to uint16
	for part, data := range nlattr.All(body) {
		for typ, data := range nlattr.All(data) {
			switch {
			case part == 1 && (typ == 1 || typ == 3):
				src, _ = netip.AddrFromSlice(data)
			case part == 1 && (typ == 2 || typ == 4):
				dst, _ = netip.AddrFromSlice(data)
			case part == 2 && typ == 1 && len(data) == 1:
				e.Protocol = ruleset.Protocol(data[0])
			case part == 2 && typ == 2:
				from = nlattr.Number[uint16](data)
			case part == 2 && typ == 3:
				to = nlattr.Number[uint16](data)
			}
		}
	}
	e.Src, e.Dst = netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, to)
	return e
}

// tcpState is the name of one of enum tcp_conntrack.
func tcpState(n byte) string {
	states := [...]string{"NONE", "SYN_SENT", "SYN_RECV", "ESTABLISHED", "FIN_WAIT", "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT",
		"CLOSE", "SYN_SENT2"}
	if int(n) < len(states) {
		return states[n]
	}
	return ""
}

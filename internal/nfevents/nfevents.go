// Package nfevents reads what the kernel tells of by itself, over netlink: the way of traced packets through rules
// (nftrace, and the log of the legacy xtables), connections (conntrack), and who changes rules of nf_tables.
//
// Reading is in two parts: [Stream] receives, and [Decode] says what the bytes mean.
package nfevents

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/internal/nlattr"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Group is a group of events (enum nfnetlink_groups of linux/netfilter/nfnetlink.h).
type Group uint32

// The groups.
const (
	NewFlows     Group = 1
	ChangedFlows Group = 2
	EndedFlows   Group = 3
	RuleChanges  Group = 7
	Traces       Group = 9
)

// Event is one thing that happened: one of its fields is set.
type Event struct {
	Trace *Trace
	Log   *Log
	Flow  *Flow
	Rules *Rules
}

// Kind is what a packet met.
type Kind uint8

// The kinds, as nf_tables counts them (enum nft_trace_types of linux/netfilter/nf_tables.h).
const (
	Policy Kind = 1 // the end of a base chain
	Return Kind = 2 // the end of another, or a rule that returns
	Rule   Kind = 3
)

// Verdict is what a rule of nf_tables has decided: NF_DROP is 0, NF_ACCEPT 1, those below zero go on in a chain.
type Verdict int32

// The verdicts.
const (
	Drop     Verdict = 0
	Accept   Verdict = 1
	Continue Verdict = -1
	Jump     Verdict = -3
	Goto     Verdict = -4
	Returned Verdict = -5
)

// String returns nft's word for the verdict.
func (v Verdict) String() string {
	switch v {
	case Drop:
		return "drop"
	case Accept:
		return "accept"
	case Continue:
		return "continue"
	case Jump:
		return "jump"
	case Goto:
		return "goto"
	case Returned:
		return "return"
	}
	return "verdict " + strconv.Itoa(int(v))
}

// Trace is a step of a packet through nf_tables.
type Trace struct {
	// ID is the same for the steps of a packet from one hook to the next; the kernel uses it for other packets later.
	ID uint32
	// Family is the table's, as in nfproto of linux/netfilter.h: 1 inet, 2 ip, 10 ip6.
	Family       uint8
	Table, Chain string
	// Handle is the rule's number in its table, of kind [Rule].
	Handle  uint64
	Kind    Kind
	Verdict Verdict
	// To is the chain of a jump or goto.
	To string
	// Header is the packet's, with the first step of each base chain; else its Network is empty.
	Header Header
}

// FamilyName is nft's word for a family of tables.
func FamilyName(f uint8) string {
	switch f {
	case 1:
		return "inet"
	case 2:
		return "ip"
	case 3:
		return "arp"
	case 5:
		return "netdev"
	case 7:
		return "bridge"
	case 10:
		return "ip6"
	}
	return strconv.Itoa(int(f))
}

// Log is a packet that the legacy xtables have logged since it is traced.
type Log struct {
	Table, Chain string
	Kind         Kind
	// Number is the rule's place in its chain, from 1.
	Number int
	Header Header
}

// Header is the beginning of a packet.
type Header struct {
	// Network is the IP header, and Transport what follows it: of both at most what the kernel tells.
	Network, Transport []byte
	// In and Out are the numbers of the interfaces. Zero: there is none.
	In, Out uint32
	Mark    uint32
}

// Ends reads the addresses and ports. ok is false of what is no IP packet.
func (h Header) Ends() (e conntrack.Ends, ok bool) {
	n := h.Network
	var src, dst netip.Addr
	switch {
	case len(n) >= 20 && n[0]>>4 == 4:
		e.Protocol = ruleset.Protocol(n[9])
		src, dst = netip.AddrFrom4([4]byte(n[12:16])), netip.AddrFrom4([4]byte(n[16:20]))
	case len(n) >= 40 && n[0]>>4 == 6:
		e.Protocol = ruleset.Protocol(n[6])
		src, dst = netip.AddrFrom16([16]byte(n[8:24])), netip.AddrFrom16([16]byte(n[24:40]))
	default:
		return e, false
	}
	var from, to uint16
	if (e.Protocol == ruleset.TCP || e.Protocol == ruleset.UDP) && len(h.Transport) >= 4 {
		from, to = binary.BigEndian.Uint16(h.Transport), binary.BigEndian.Uint16(h.Transport[2:])
	}
	e.Src, e.Dst = netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, to)
	return e, true
}

// Length is that of the whole packet, in bytes.
func (h Header) Length() int {
	switch n := h.Network; {
	case len(n) >= 20 && n[0]>>4 == 4:
		return int(binary.BigEndian.Uint16(n[2:]))
	case len(n) >= 40:
		return 40 + int(binary.BigEndian.Uint16(n[4:]))
	}
	return 0
}

// TCPFlags returns the flags of a TCP packet.
func (h Header) TCPFlags() (flags uint8, ok bool) {
	if e, is := h.Ends(); !is || e.Protocol != ruleset.TCP || len(h.Transport) < 14 {
		return 0, false
	}
	return h.Transport[13], true
}

// Same is a text that NAT leaves as it is, and that tells the packet from most others.
func (h Header) Same() string {
	e, ok := h.Ends()
	if !ok {
		return ""
	}
	b := []byte{byte(e.Protocol), h.Network[0] >> 4}
	if h.Network[0]>>4 == 4 {
		b = append(b, h.Network[4:8]...) // identification and fragment
	}
	b = binary.BigEndian.AppendUint16(b, uint16(h.Length()))
	switch t := h.Transport; {
	case e.Protocol == ruleset.TCP && len(t) >= 14:
		b = append(b, t[4:14]...)
	case len(t) > 8:
		b = append(b, t[8:min(len(t), 20)]...)
	}
	return string(b)
}

// Change is what became of a flow.
type Change uint8

// The changes.
const (
	Began Change = iota + 1
	Changed
	Ended
)

// Flow is a change of a connection that conntrack knows.
type Flow struct {
	Change Change
	conntrack.Entry
}

// Rules is a change of nf_tables' rules: one message of those about a transaction, or with By the end of one.
type Rules struct {
	// Family and Table are of what was changed.
	Family uint8
	Table  string
	// Added and Removed count rules.
	Added, Removed int
	// Generation, PID and By are set at the end of a transaction: its number, and the process that made it, by its number
	// in the kernel's first PID namespace and its name.
	Generation uint32
	PID        uint32
	By         string
}

const (
	headerSize = 16 // struct nlmsghdr
	generic    = 4  // struct nfgenmsg

	subsystemConntrack, subsystemLog, subsystemNFT = 1, 4, 10
)

// Decode reads the messages of one datagram.
func Decode(b []byte) (all []Event) {
	for len(b) >= headerSize+generic {
		length := int(binary.NativeEndian.Uint32(b))
		if length < headerSize+generic || length > len(b) {
			break
		}
		typ, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
		family, body := b[headerSize], b[headerSize+generic:length]
		var e Event
		switch typ >> 8 {
		case subsystemNFT:
			e.Trace, e.Rules = decodeNFT(typ&0xff, family, body)
		case subsystemConntrack:
			e.Flow = decodeFlow(typ&0xff, flags, body)
		case subsystemLog:
			e.Log = decodeLog(typ&0xff, body)
		}
		if e != (Event{}) {
			all = append(all, e)
		}
		b = b[min(len(b), (length+3)&^3):]
	}
	return all
}

func text(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

// decodeNFT reads messages of nf_tables (enum nf_tables_msg_types).
func decodeNFT(message uint16, family uint8, body []byte) (*Trace, *Rules) {
	const (
		newTable, newRule, delRule, delSetElem, newGen, trace, delObject = 0, 6, 8, 14, 15, 17, 20

		genID, procPID, procName = 1, 2, 3 // NFTA_GEN_…
		tableOf                  = 1       // NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE and so on
	)
	switch {
	case message == trace:
		return decodeTrace(family, body), nil
	case message == newGen:
		var r Rules
		for typ, data := range nlattr.All(body) {
			switch typ {
			case genID:
				r.Generation = nlattr.Number[uint32](data)
			case procPID:
				r.PID = nlattr.Number[uint32](data)
			case procName:
				r.By = text(data)
			}
		}
		return nil, &r
	case message <= delSetElem, message <= delObject && message > newGen:
		r := Rules{Family: family}
		for typ, data := range nlattr.All(body) {
			if typ == tableOf {
				r.Table = text(data)
			}
		}
		switch message {
		case newRule:
			r.Added = 1
		case delRule:
			r.Removed = 1
		}
		return nil, &r
	}
	return nil, nil
}

// decodeTrace reads enum nft_trace_attributes.
func decodeTrace(family uint8, body []byte) *Trace {
	t := Trace{Family: family, Verdict: Continue}
	for typ, data := range nlattr.All(body) {
		switch typ {
		case 1:
			t.Table = text(data)
		case 2:
			t.Chain = text(data)
		case 3:
			t.Handle = nlattr.Number[uint64](data)
		case 4:
			t.Kind = Kind(nlattr.Number[uint32](data))
		case 5:
			for typ, data := range nlattr.All(data) {
				switch typ {
				case 1:
					t.Verdict = Verdict(nlattr.Number[uint32](data))
				case 2:
					t.To = text(data)
				}
			}
		case 6:
			t.ID = nlattr.Number[uint32](data)
		case 8:
			t.Header.Network = data
		case 9:
			t.Header.Transport = data
		case 10:
			t.Header.In = nlattr.Number[uint32](data)
		case 12:
			t.Header.Out = nlattr.Number[uint32](data)
		case 14:
			t.Header.Mark = nlattr.Number[uint32](data)
		case 16:
			t.Verdict = Verdict(nlattr.Number[uint32](data))
		}
	}
	return &t
}

// decodeFlow reads a message of conntrack.
func decodeFlow(message, flags uint16, body []byte) *Flow {
	const created, deletion, newOrChanged = 0x400, 2, 0 // NLM_F_CREATE, IPCTNL_MSG_CT_…
	var c Change
	switch {
	case message == deletion:
		c = Ended
	case message == newOrChanged && flags&created != 0:
		c = Began
	case message == newOrChanged:
		c = Changed
	default:
		return nil
	}
	return &Flow{Change: c, Entry: conntrack.Decode(body)}
}

// decodeLog reads enum nfulnl_attr_type of linux/netfilter/nfnetlink_log.h, with the prefix that a packet has which
// xtables trace: "TRACE: nat:OUTPUT:rule:3 ".
func decodeLog(message uint16, body []byte) *Log {
	const packet = 0
	if message != packet {
		return nil
	}
	var l Log
	isTrace := false
	for typ, data := range nlattr.All(body) {
		switch typ {
		case 2:
			l.Header.Mark = nlattr.Number[uint32](data)
		case 4:
			l.Header.In = nlattr.Number[uint32](data)
		case 5:
			l.Header.Out = nlattr.Number[uint32](data)
		case 9:
			l.Header.Network, l.Header.Transport = split(data)
		case 10:
			words := strings.Split(strings.TrimSpace(text(data)), ":")
			if len(words) != 5 || words[0] != "TRACE" {
				return nil
			}
			isTrace = true
			l.Table, l.Chain = strings.TrimSpace(words[1]), words[2]
			l.Kind = Rule
			switch words[3] {
			case "return":
				l.Kind = Return
			case "policy":
				l.Kind = Policy
			}
			l.Number, _ = strconv.Atoi(words[4])
		}
	}
	if !isTrace {
		return nil
	}
	return &l
}

// split splits a packet into its headers.
func split(b []byte) (network, transport []byte) {
	n := 0
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		n = int(b[0]&15) * 4
	case len(b) >= 40 && b[0]>>4 == 6:
		n = 40
	}
	if n == 0 || n > len(b) {
		return nil, nil
	}
	return b[:n], b[n:min(len(b), n+20)]
}

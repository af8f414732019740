package nft

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// The names of what a witness makes, and what its set's keys are made of: registers of four bytes each.
const (
	witnessSet  = "senders"
	keyParts    = 5 // protocol, port, user, group, mark
	keyLength   = 4 * keyParts
	mostSenders = 1 << 14
	// afterNAT is when chains look at where NAT has sent a packet.
	afterNAT   = ruleset.PriorityDstNAT + 1
	sentLength = 4 * 4
)

// sentSet is a set of where packets of a family were sent. Its keys have the protocol, the port from which, the ports to
// which before and after NAT, and the addresses: that from which, and to which before and after.
type sentSet struct {
	name             string
	id, size, offset uint32 // of the address, and where it is in a packet
	proto            byte
	src, dst         expr.CtKey
}

func sentSets() []sentSet {
	return []sentSet{{"sent4", 2, 4, 16, unix.NFPROTO_IPV4, expr.CtKeySRCIP, expr.CtKeyDSTIP},
		{"sent6", 3, 16, 24, unix.NFPROTO_IPV6, expr.CtKeySRCIP6, expr.CtKeyDSTIP6}}
}

func (w *Witness) create(ports ruleset.PortRange, now time.Time) error {
	if err := w.conn.removeLeft(func(name string) bool { return isLeft(name, now) }); err != nil {
		return err
	}
	_, err := owned(func(flags uint32) error { return w.add(ports, flags) })
	return explain(err, "make a table that notes who sends")
}

func (w *Witness) add(ports ruleset.PortRange, flags uint32) error {
	const (
		family  = nftables.TableFamilyINet
		dynamic = 0x20 // NFT_SET_EVAL
		chosen  = "sent"
	)
	t := &batch{}
	t.add(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl, family, text(unix.NFTA_TABLE_NAME, w.table),
		number(unix.NFTA_TABLE_FLAGS, flags))
	t.addChain(family, w.table, chain{name: chosen, hook: ruleset.Output, priority: ruleset.PriorityRaw - 1,
		typ: ruleset.FilterChain})
	set := func(name string, id, length uint32) {
		t.add(unix.NFT_MSG_NEWSET, netlink.Create, family,
			text(unix.NFTA_SET_TABLE, w.table), text(unix.NFTA_SET_NAME, name), number(unix.NFTA_SET_FLAGS, dynamic),
			number(unix.NFTA_SET_KEY_TYPE, 0), number(unix.NFTA_SET_KEY_LEN, length), number(unix.NFTA_SET_ID, id),
			t.nested(unix.NFTA_SET_DESC, number(unix.NFTA_SET_DESC_SIZE, mostSenders)))
	}
	set(witnessSet, 1, keyLength)
	for _, only := range [][]expr.Any{
		isProtocol(ruleset.UDP),
		// No SYN: a connection that is open.
		append(isProtocol(ruleset.TCP), append(transport(13, 1),
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{ruleset.SYN}, Xor: []byte{0}},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}})...),
	} {
		encoded, err := encode(family, []stmt{{exprs: append(only, notes(ports)...)}})
		if err != nil {
			return err
		}
		t.addRule(family, w.table, chosen, rule{encoded: encoded, comment: "mesh-init verify notes who answers it"})
	}
	for _, hook := range []ruleset.Hook{ruleset.Output, ruleset.Prerouting} {
		t.addChain(family, w.table, chain{name: hook.String(), hook: hook, priority: afterNAT, typ: ruleset.FilterChain})
	}
	for _, s := range sentSets() {
		set(s.name, s.id, sentLength+3*s.size)
		encoded, err := encode(family, []stmt{{exprs: s.notes(ports)}})
		if err != nil {
			return err
		}
		for _, hook := range []ruleset.Hook{ruleset.Output, ruleset.Prerouting} {
			t.addRule(family, w.table, hook.String(),
				rule{encoded: encoded, comment: "mesh-init verify notes where NAT sends what it tries"})
		}
	}
	lost, err := w.conn.insist(t)
	if lost && errors.Is(err, unix.EEXIST) {
		err = nil
	}
	return err
}

func isProtocol(p ruleset.Protocol) []expr.Any {
	return append(meta(expr.MetaKeyL4PROTO), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{byte(p)}})
}

// notes adds a packet's sender to the set. A packet that no process sends has none, and is passed over.
func notes(ports ruleset.PortRange) []expr.Any {
	load := append(transport(2, 2),
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: binary.BigEndian.AppendUint16(nil, ports.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: binary.BigEndian.AppendUint16(nil, ports.Last)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register(0)},
		&expr.Payload{DestRegister: register(1), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
	for i, key := range []expr.MetaKey{expr.MetaKeySKUID, expr.MetaKeySKGID, expr.MetaKeyMARK} {
		load = append(load, &expr.Meta{Key: key, Register: register(uint32(i) + 2)})
	}
	return append(load, &expr.Dynset{SrcRegKey: register(0), SetName: witnessSet, SetID: 1,
		Operation: unix.NFT_DYNSET_OP_ADD})
}

// notes adds to the set where a packet goes that comes from one of the ports.
func (s sentSet) notes(ports ruleset.PortRange) []expr.Any {
	return append(append(append(meta(expr.MetaKeyNFPROTO),
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{s.proto}}), transport(0, 2)...),
		&expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: binary.BigEndian.AppendUint16(nil, ports.First)},
		&expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: binary.BigEndian.AppendUint16(nil, ports.Last)},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register(0)},
		&expr.Payload{DestRegister: register(1), Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Ct{Key: expr.CtKeyPROTODST, Register: register(2), OptDirection: true},
		&expr.Payload{DestRegister: register(3), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Ct{Key: s.src, Register: register(4), OptDirection: true},
		&expr.Ct{Key: s.dst, Register: register(4 + s.size/4), OptDirection: true},
		&expr.Payload{DestRegister: register(4 + 2*s.size/4), Base: expr.PayloadBaseNetworkHeader, Offset: s.offset, Len: s.size},
		&expr.Dynset{SrcRegKey: register(0), SetName: s.name, SetID: s.id, Operation: unix.NFT_DYNSET_OP_ADD})
}

func (w *Witness) sent() (all []Sent, err error) {
	for _, s := range sentSets() {
		err = w.conn.eachElement(nftables.TableFamilyINet, w.table, s.name, func(key []byte, _ bool) {
			if len(key) < int(sentLength+3*s.size) {
				return
			}
			end := func(addr, port uint32) netip.AddrPort {
				a, _ := netip.AddrFromSlice(key[addr:][:s.size])
				return netip.AddrPortFrom(a, binary.BigEndian.Uint16(key[port:]))
			}
			all = append(all, Sent{Protocol: ruleset.Protocol(key[0]), Src: end(sentLength, 4), Dst: end(sentLength+s.size, 8),
				To: end(sentLength+2*s.size, 12)})
		})
		if err != nil {
			return nil, explain(err, "list where packets were sent")
		}
	}
	return all, nil
}

func (w *Witness) senders() (all []Sender, err error) {
	err = w.conn.eachElement(nftables.TableFamilyINet, w.table, witnessSet, func(key []byte, _ bool) {
		if len(key) < keyLength {
			return
		}
		host := func(part int) uint32 { return binary.NativeEndian.Uint32(key[4*part:]) }
		all = append(all, Sender{Protocol: ruleset.Protocol(key[0]), Port: binary.BigEndian.Uint16(key[4:]),
			Owner: ruleset.Owner{UID: host(2), GID: host(3)}, Mark: host(4)})
	})
	return all, explain(err, "list who has sent")
}

// remove removes the table, rather than leave that to the kernel: a process that is about to start another program has
// a copy of the socket.
func (w *Witness) remove() error {
	t := &batch{}
	t.deleteTable(nftables.TableFamilyINet, w.table)
	lost, err := w.conn.insist(t)
	if lost && errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return explain(err, "remove the table that notes who sends")
}

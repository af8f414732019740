//go:build linux

package nft

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A batch is one transaction: messages that take effect together or not at
// all. The library can send one, too, but has the kernel send every rule back,
// and reads each by itself.
type batch struct {
	messages []netlink.Message
	data     []byte // what messages have is in it, one after the other
	err      error  // the first that encoding met
}

func (b *batch) add(message uint16, flags netlink.HeaderFlags, family nftables.TableFamily,
	attrs ...netlink.Attribute) {
	if cap(b.data)-len(b.data) < room {
		b.data = make([]byte, 0, 64<<10) // what there is stays where it is
	}
	begin := len(b.data)
	data, err := appendBody(b.data, family, attrs)
	b.data, b.err = data, errors.Join(b.err, err)
	b.messages = append(b.messages, messageOf(message, flags, data[begin:len(data):len(data)]))
}

// room is more than most messages take.
const room = 2 << 10

// request makes a message of nf_tables.
func request(
	message uint16, flags netlink.HeaderFlags, family nftables.TableFamily, attrs []netlink.Attribute,
) (netlink.Message, error) {
	data, err := appendBody(nil, family, attrs)
	return messageOf(message, flags, data), err
}

func messageOf(message uint16, flags netlink.HeaderFlags, data []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message),
			Flags: netlink.Request | flags,
		},
		Data: data,
	}
}

// appendBody writes a struct nfgenmsg, and attributes.
func appendBody(b []byte, family nftables.TableFamily, attrs []netlink.Attribute) (_ []byte, err error) {
	b = append(b, byte(family), unix.NFNETLINK_V0, 0, 0)
	for _, a := range attrs {
		if b, err = appendAttribute(b, a.Type, a.Data); err != nil {
			return b, err
		}
	}
	return b, nil
}

// appendAttribute is [netlink.MarshalAttributes] for one, into what there is already.
func appendAttribute(b []byte, typ uint16, data []byte) ([]byte, error) {
	length := unix.NLA_HDRLEN + len(data)
	if length > 1<<16-1 {
		return b, fmt.Errorf("an attribute of %d bytes: %w", length, unix.EMSGSIZE)
	}
	b = binary.NativeEndian.AppendUint16(b, uint16(length))
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, data...)
	for len(b)%unix.NLA_ALIGNTO != 0 {
		b = append(b, 0)
	}
	return b, nil
}

// It is called from many places, and to be small matters more than a nanosecond.
//
//go:noinline
func text(typ uint16, s string) netlink.Attribute {
	return netlink.Attribute{Type: typ, Data: append([]byte(s), 0)}
}

//go:noinline
func number(typ uint16, n uint32) netlink.Attribute {
	return netlink.Attribute{Type: typ, Data: be32(n)}
}

func (b *batch) nested(typ uint16, attrs ...netlink.Attribute) netlink.Attribute {
	data, err := netlink.MarshalAttributes(attrs)
	b.err = errors.Join(b.err, err)
	return netlink.Attribute{Type: unix.NLA_F_NESTED | typ, Data: data}
}

// createTable fails with EEXIST if the table is there already.
func (b *batch) createTable(family nftables.TableFamily, name string) {
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl, family, text(unix.NFTA_TABLE_NAME, name))
}

// deleteTable fails with ENOENT if the table is not there.
func (b *batch) deleteTable(family nftables.TableFamily, name string) {
	b.add(unix.NFT_MSG_DELTABLE, 0, family, text(unix.NFTA_TABLE_NAME, name))
}

// addTable adds a table under a name, with its sets, chains and those of its
// rules that pass the filter.
func (b *batch) addTable(t table, name string, filter func(*rule) bool) {
	b.createTable(t.family, name)
	b.fillTable(t, name, t.sets, filter)
}

// fillTable adds to a table what is in it, and of the sets those given.
func (b *batch) fillTable(t table, name string, sets []set, filter func(*rule) bool) {
	b.addChain(t.family, name, chain{name: t.spec}, chainComment(t.olderChains)...)
	for i, s := range sets {
		b.addSet(t.family, name, s, uint32(i+1))
	}
	// Rules may continue in any chain, so all chains come first.
	for _, c := range t.chains {
		b.addChain(t.family, name, c)
	}
	for _, r := range t.note {
		if filter(&r) {
			b.addRule(t.family, name, t.spec, r)
		}
	}
	for _, c := range t.chains {
		for i := range c.rules {
			if r := &c.rules[i]; filter(r) {
				b.addRule(t.family, name, c.name, *r)
			}
		}
	}
}

// chainUserData is NFTA_CHAIN_USERDATA. Kernels before Linux 5.10 pass over it.
const chainUserData = 12

// chainComment is a comment of a chain as nft(8) shows it. Empty: none.
func chainComment(comment string) []netlink.Attribute {
	if comment == "" {
		return nil
	}
	return []netlink.Attribute{{Type: chainUserData, Data: userdata.AppendString(nil, userdata.TypeComment, comment)}}
}

func (b *batch) addChain(family nftables.TableFamily, table string, c chain, more ...netlink.Attribute) {
	attrs := append(more, text(unix.NFTA_CHAIN_TABLE, table), text(unix.NFTA_CHAIN_NAME, c.name))
	if c.isBase() {
		attrs = append(attrs,
			b.nested(unix.NFTA_CHAIN_HOOK,
				number(unix.NFTA_HOOK_HOOKNUM, uint32(hookNumber(c.hook))),
				number(unix.NFTA_HOOK_PRIORITY, uint32(c.priority))),
			number(unix.NFTA_CHAIN_POLICY, uint32(nftables.ChainPolicyAccept)),
			text(unix.NFTA_CHAIN_TYPE, c.typ.String()))
	}
	b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, family, attrs...)
}

func (s set) flags() uint32 {
	switch {
	case s.key.isInterval():
		return unix.NFT_SET_INTERVAL
	case s.key == keySettling:
		return unix.NFT_SET_TIMEOUT
	}
	return 0
}

// byteOrder is for nft(8), which would else take all keys for little-endian (enum byteorder in nftables'
// include/datatype.h).
func (s set) byteOrder() uint32 {
	const hostEndian, bigEndian = 1, 2
	if s.key == keySettling {
		return hostEndian
	}
	return bigEndian
}

func (b *batch) addSet(family nftables.TableFamily, table string, s set, id uint32) {
	typ := s.key.datatype()
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, family,
		text(unix.NFTA_SET_TABLE, table), text(unix.NFTA_SET_NAME, s.name),
		number(unix.NFTA_SET_FLAGS, s.flags()),
		number(unix.NFTA_SET_KEY_TYPE, typ.GetNFTMagic()),
		number(unix.NFTA_SET_KEY_LEN, typ.Bytes),
		number(unix.NFTA_SET_ID, id),
		netlink.Attribute{Type: unix.NFTA_SET_USERDATA,
			Data: userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, s.byteOrder())})
	b.addElements(family, table, s, number(unix.NFTA_SET_ELEM_LIST_SET_ID, id))
}

// deleteRules deletes all rules of a table.
func (b *batch) deleteRules(family nftables.TableFamily, table string) {
	b.add(unix.NFT_MSG_DELRULE, 0, family, text(unix.NFTA_RULE_TABLE, table))
}

// deleteSet fails with EBUSY if a rule asks the set.
func (b *batch) deleteSet(family nftables.TableFamily, table, name string) {
	b.add(unix.NFT_MSG_DELSET, 0, family, text(unix.NFTA_SET_TABLE, table), text(unix.NFTA_SET_NAME, name))
}

// emptySet takes all elements out of a set, if there are any.
func (b *batch) emptySet(family nftables.TableFamily, table, name string) {
	b.add(unix.NFT_MSG_DELSETELEM, 0, family,
		text(unix.NFTA_SET_ELEM_LIST_TABLE, table), text(unix.NFTA_SET_ELEM_LIST_SET, name))
}

func (b *batch) addRule(family nftables.TableFamily, table, chain string, r rule) {
	b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, family,
		text(unix.NFTA_RULE_TABLE, table), text(unix.NFTA_RULE_CHAIN, chain),
		netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_RULE_EXPRESSIONS, Data: r.encoded},
		netlink.Attribute{Type: unix.NFTA_RULE_USERDATA, Data: userdata.AppendString(nil, userdata.TypeComment, r.comment)})
}

// commit sends a batch. If generation is not zero, it fails with ERESTART where
// the rules are of another one. The error of the first message that failed
// comes back, and nothing has then changed. ENOBUFS says that the answer was lost:
// the kernel may hold the batch, or not.
func (conn *Conn) commit(t *batch, generation uint32) error {
	if t.err != nil {
		return fmt.Errorf("encode the rules: %w", t.err)
	}
	head := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES}
	if generation != 0 {
		attr, err := netlink.MarshalAttributes([]netlink.Attribute{number(unix.NFNL_BATCH_GENID, generation)})
		if err != nil {
			return err
		}
		head = append(head, attr...)
	}
	begin := netlink.Message{Header: netlink.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: netlink.Request}, Data: head}
	end := begin
	end.Header.Type = unix.NFNL_MSG_BATCH_END
	messages := append(append([]netlink.Message{begin}, t.messages...), end)
	// The last of the messages is acknowledged, others answered only if they
	// fail: what comes before the acknowledgment are all the errors.
	last := len(messages) - 2
	messages[last].Header.Flags |= netlink.Acknowledge

	sent, err := conn.sock.SendMessages(messages)
	if err != nil {
		return err
	}
	first, final := sent[0].Header.Sequence, sent[last].Header.Sequence
	var failure error
	for {
		var seq uint32
		replies, err := conn.sock.Receive()
		var op *netlink.OpError
		switch {
		case errors.As(err, &op) && op.Sequence != 0:
			seq = op.Sequence
			if failure == nil && seq-first < uint32(len(sent)) {
				failure = &messageError{uint16(sent[seq-first].Header.Type), op.Err}
			}
		case err != nil:
			return err
		case len(replies) > 0:
			seq = replies[len(replies)-1].Header.Sequence
		}
		// An error of the beginning is the only answer: no privilege, or
		// another generation.
		if seq == final || seq == first {
			if failure != nil {
				conn.seen = nil
			}
			return failure
		}
	}
}

// insist commits what can be tried again, for it begins by making what must not be there, or removes it: until the
// kernel's answer is heard. If one was lost, what it made or removed may be there, or gone, before the last try.
func (conn *Conn) insist(t *batch) (lost bool, err error) {
	for range maxAttempts {
		if err = conn.commit(t, 0); !errors.Is(err, unix.ENOBUFS) {
			break
		}
		lost = true
	}
	return lost, err
}

// messageError is the error of one message of a batch.
type messageError struct {
	typ uint16
	err error
}

func (e *messageError) Error() string { return e.err.Error() }
func (e *messageError) Unwrap() error { return e.err }

// isDeletion reports whether err is of a message that deletes something.
func isDeletion(err error) bool {
	var m *messageError
	if !errors.As(err, &m) || m.typ>>8 != unix.NFNL_SUBSYS_NFTABLES {
		return false
	}
	switch m.typ & 0xff {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE, unix.NFT_MSG_DELSET:
		return true
	}
	return false
}

//go:build linux

package nft

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

// kernel answers each request with the same messages, as a kernel would whose
// rules somebody else has written.
type kernel struct {
	payloads [][]byte
	sequence uint32
	asked    netlink.HeaderType // zero: nothing
}

func (k *kernel) Close() error { return nil }

func (k *kernel) Send(m netlink.Message) error {
	k.sequence, k.asked = m.Header.Sequence, m.Header.Type
	return nil
}

func (k *kernel) SendMessages(all []netlink.Message) error { return k.Send(all[len(all)-1]) }

func (k *kernel) Receive() ([]netlink.Message, error) {
	if k.asked == 0 {
		return nil, io.EOF
	}
	payloads := k.payloads
	if k.asked == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN {
		one := []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0, 8, 0, unix.NFTA_GEN_ID, 0, 0, 0, 0, 1}
		payloads = append(slices.Clone(payloads), one)
	}
	k.asked = 0
	var all []netlink.Message
	for _, p := range payloads {
		all = append(all, netlink.Message{Header: netlink.Header{Flags: netlink.Multi, Sequence: k.sequence}, Data: p})
	}
	return append(all, netlink.Message{Header: netlink.Header{Type: netlink.Done, Flags: netlink.Multi,
		Sequence: k.sequence}, Data: make([]byte, 4)}), nil
}

// message is a message of nf_tables with attributes.
func message(t testing.TB, family nftables.TableFamily, attrs ...netlink.Attribute) []byte {
	t.Helper()
	b, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, b...)
}

// FuzzDump holds that whatever the kernel has of others' making, it is read or
// refused without a panic, and that what is read can be compared and shown.
func FuzzDump(f *testing.F) {
	const inet = nftables.TableFamilyINet
	nested := func(typ uint16, attrs ...netlink.Attribute) netlink.Attribute {
		b, err := netlink.MarshalAttributes(attrs)
		if err != nil {
			f.Fatal(err)
		}
		return netlink.Attribute{Type: typ, Data: b}
	}
	f.Add(message(f, inet, text(unix.NFTA_TABLE_NAME, Table)), message(f, inet, text(unix.NFTA_CHAIN_TABLE, Table),
		text(3, specPrefix+"x"), nested(unix.NFTA_CHAIN_HOOK, netlink.Attribute{Type: 1, Data: []byte{0, 0, 0, 200}})))
	f.Add(message(f, inet, text(unix.NFTA_RULE_TABLE, Table), text(unix.NFTA_RULE_CHAIN, "c"), nested(
		unix.NFTA_RULE_EXPRESSIONS, nested(1, text(1, "immediate"), nested(2, nested(2, nested(2, text(2, "x"))))))),
		message(f, inet, netlink.Attribute{Type: unix.NFTA_RULE_USERDATA, Data: []byte{0, 200, 'x'}}))
	flags := netlink.Attribute{Type: unix.NFTA_SET_ELEM_FLAGS, Data: []byte{1}}
	f.Add(message(f, inet, nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, nested(1, flags))), []byte{1})
	rs, err := intercept.Compile(intercept.Default())
	if err != nil {
		f.Fatal(err)
	}
	prog, err := compile(rs, oneTable)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		conn := &Conn{sock: netlink.NewConn(&kernel{payloads: [][]byte{a, b}}, 0)}
		if st, _, err := conn.find(); err == nil {
			_ = st.foreign()
			if conn.load(st) == nil {
				_ = joinDifferences(prog.differences(st))
			}
		}
		if chains, err := conn.foreignChains(); err == nil {
			_ = conn.foreignRules(chains)
		}
		_, _ = conn.generation()
		_, _ = conn.counters(t.Context())
	})
}

// FuzzComment holds that a rule's user data is read or passed over, and that ours
// come back.
func FuzzComment(f *testing.F) {
	f.Add([]byte{0, 200, 'x'}, "O12")
	f.Add([]byte{1, 1, 1, 0, 2, 'a', 0}, "")
	f.Fuzz(func(t *testing.T, data []byte, ours string) {
		if c := comment(data); len(c) > len(data) {
			t.Fatalf("%q of %q", c, data)
		}
		if len(ours) < 200 && !strings.Contains(ours, "\x00") {
			if got := comment(userdata.AppendString(nil, userdata.TypeComment, ours)); got != ours {
				t.Fatalf("%q became %q", ours, got)
			}
		}
	})
}

// TestForeignUserData: what somebody with NET_ADMIN in the pod writes beside a rule
// of our table is a difference, not the end of who looks: the kernel takes any bytes.
func TestForeignUserData(t *testing.T) {
	ns, conn := namespace(t)
	rs, err := intercept.Compile(intercept.Default())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Apply(t.Context(), rs); err != nil {
		t.Fatal(err)
	}
	other, err := openIn(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var b batch
	for _, c := range rs.Chains { // so that it is the last of what the kernel lists, too
		b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, nftables.TableFamilyINet,
			text(unix.NFTA_RULE_TABLE, Table), text(unix.NFTA_RULE_CHAIN, c.Name),
			netlink.Attribute{Type: unix.NFTA_RULE_USERDATA, Data: []byte{0, 255, 'x'}})
	}
	if err := other.commit(&b, 0); err != nil {
		t.Fatal(err)
	}
	diffs, err := conn.Check(t.Context(), rs)
	if err != nil || len(diffs) == 0 {
		t.Errorf("%v, %v", diffs, err)
	}
	if _, err := conn.Counters(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if _, err := conn.Apply(t.Context(), rs); err != nil {
		t.Error(err)
	}
	if diffs, err := conn.Check(t.Context(), rs); err != nil || len(diffs) > 0 {
		t.Errorf("put right: %v, %v", diffs, err)
	}
}

package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
)

// state is what the kernel holds under our table's name, in any family.
type state []kernelTable

type kernelTable struct {
	family nftables.TableFamily
	spec   string // empty: not ours
	chains []*nftables.Chain
	sets   []kernelSet
	rules  map[string][]kernelRule // by chain
}

type kernelSet struct {
	name     string
	key      nftables.SetDatatype
	interval bool
	elements []string // sorted
}

type kernelRule struct {
	comment        string
	body           []string // canonical expressions, in order
	packets, bytes uint64
}

// find returns our tables without their content: enough to know whether there
// is anything and who made it.
func (b *Backend) find() (state, error) {
	tables, err := b.conn.ListTables()
	if err != nil {
		return nil, explain(err, "list tables")
	}
	var st state
	for _, t := range tables {
		if t.Name == Table {
			st = append(st, kernelTable{family: t.Family})
		}
	}
	if len(st) == 0 {
		return nil, nil
	}
	chains, err := b.conn.ListChains()
	if err != nil {
		return nil, explain(err, "list chains")
	}
	for i := range st {
		t := &st[i]
		for _, c := range chains {
			if c.Table.Name != Table || c.Table.Family != t.family {
				continue
			}
			if strings.HasPrefix(c.Name, specPrefix) {
				t.spec = c.Name
			}
			t.chains = append(t.chains, c)
		}
	}
	return st, nil
}

// foreign reports a table of our name that has no mark of ours.
func (st state) foreign() error {
	for _, t := range st {
		if t.spec == "" {
			return fmt.Errorf("%w: %s %s; rename it or remove it with `nft delete table %s %s`",
				ErrForeign, familyName(t.family), Table, familyName(t.family), Table)
		}
	}
	return nil
}

// load reads the content of the tables found. The error is errChanged if one
// of them went away meanwhile.
func (b *Backend) load(st state) error {
	for i := range st {
		if err := b.loadTable(&st[i]); errors.Is(err, unix.ENOENT) {
			return errChanged
		} else if err != nil {
			return explain(err, "read the rules back")
		}
	}
	return nil
}

func (b *Backend) loadTable(t *kernelTable) (err error) {
	if t.rules, err = b.rules(t.family); err != nil {
		return err
	}
	sets, err := b.conn.GetSets(&nftables.Table{Name: Table, Family: t.family})
	if err != nil {
		return err
	}
	for _, s := range sets {
		elems, err := b.conn.GetSetElements(s)
		if err != nil {
			return fmt.Errorf("set %s: %w", s.Name, err)
		}
		t.sets = append(t.sets, kernelSet{s.Name, s.KeyType, s.Interval, canonicalElements(elems)})
	}
	return nil
}

// canonicalElements leaves out the end mark that nft(8) puts before the first
// range: it excludes nothing.
func canonicalElements(elems []nftables.SetElement) []string {
	keys := make([]string, 0, len(elems))
	for _, e := range elems {
		if !e.IntervalEnd {
			keys = append(keys, string(e.Key)+"+")
		} else if !allZero(e.Key) {
			keys = append(keys, string(e.Key)+"-")
		}
	}
	slices.Sort(keys)
	return keys
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// rules reads all rules of our table of one family, by chain. It does so
// itself, since the library passes over expressions it does not know, and what
// is passed over would count as equal.
func (b *Backend) rules(family nftables.TableFamily) (map[string][]kernelRule, error) {
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: []byte(Table + "\x00")},
	})
	if err != nil {
		return nil, err
	}
	replies, err := b.sock.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{byte(family), unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, err
	}
	rules := map[string][]kernelRule{}
	for _, m := range replies {
		chain, r, err := decodeRule(family, m.Data)
		if err != nil {
			return nil, err
		}
		rules[chain] = append(rules[chain], r)
	}
	return rules, nil
}

func decodeRule(family nftables.TableFamily, data []byte) (chain string, r kernelRule, err error) {
	if len(data) < 4 {
		return "", r, fmt.Errorf("rule message of %d bytes", len(data))
	}
	ad, err := netlink.NewAttributeDecoder(data[4:])
	if err != nil {
		return "", r, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_CHAIN:
			chain = ad.String()
		case unix.NFTA_RULE_USERDATA:
			r.comment, _ = userdata.GetString(ad.Bytes(), userdata.TypeComment)
		case unix.NFTA_RULE_EXPRESSIONS:
			r.body, r.packets, r.bytes, err = canonical(family, ad.Bytes())
			if err != nil {
				return "", r, err
			}
		}
	}
	return chain, r, ad.Err()
}

// canonical writes each expression of a rule in a form that is the same for
// what was sent and for what the kernel gives back, and takes out the counts.
func canonical(family nftables.TableFamily, list []byte) (body []string, packets, counted uint64, err error) {
	ad, err := netlink.NewAttributeDecoder(list)
	if err != nil {
		return nil, 0, 0, err
	}
	for ad.Next() {
		var name string
		var data []byte
		ad.Nested(func(nad *netlink.AttributeDecoder) error {
			for nad.Next() {
				switch nad.Type() {
				case unix.NFTA_EXPR_NAME:
					name = nad.String()
				case unix.NFTA_EXPR_DATA:
					data = nad.Bytes()
				}
			}
			return nil
		})
		e, known := newExpr(name, data)
		if !known {
			flat, err := flatten(data)
			if err != nil {
				return nil, 0, 0, fmt.Errorf("expression %q: %w", name, err)
			}
			body = append(body, name+" "+flat)
			continue
		}
		if err := expr.Unmarshal(byte(family), data, e); err != nil {
			return nil, 0, 0, fmt.Errorf("expression %q: %w", name, err)
		}
		switch e := e.(type) {
		case *expr.Counter:
			packets, counted = packets+e.Packets, counted+e.Bytes
			*e = expr.Counter{}
		case *expr.Lookup:
			e.SetID = 0 // of the transaction that made the set
		case *expr.NAT:
			e.RegAddrMax, e.RegProtoMax = same(e.RegAddrMax, e.RegAddrMin), same(e.RegProtoMax, e.RegProtoMin)
		case *expr.Redir:
			e.RegisterProtoMax = same(e.RegisterProtoMax, e.RegisterProtoMin)
		}
		b, err := expr.MarshalExprData(byte(family), e)
		if err != nil {
			return nil, 0, 0, fmt.Errorf("expression %q: %w", name, err)
		}
		body = append(body, fmt.Sprintf("%s %x", name, b))
	}
	return body, packets, counted, ad.Err()
}

// same leaves out the end of a range that is its beginning: some kernels give
// it back where none was sent.
func same(last, first uint32) uint32 {
	if last == first {
		return 0
	}
	return last
}

// newExpr returns an empty expression to decode data into, for those the
// renderer writes.
func newExpr(name string, data []byte) (_ expr.Any, known bool) {
	switch name {
	case "meta":
		return &expr.Meta{}, true
	case "cmp":
		return &expr.Cmp{}, true
	case "range":
		return &expr.Range{}, true
	case "payload":
		return &expr.Payload{}, true
	case "bitwise":
		return &expr.Bitwise{}, true
	case "lookup":
		return &expr.Lookup{}, true
	case "ct":
		return &expr.Ct{}, true
	case "counter":
		return &expr.Counter{}, true
	case "redir":
		return &expr.Redir{}, true
	case "nat":
		return &expr.NAT{}, true
	case "reject":
		return &expr.Reject{}, true
	case "immediate":
		if isVerdict(data) {
			return &expr.Verdict{}, true
		}
		return &expr.Immediate{}, true
	}
	// byteorder and tproxy are among them: the library encodes but cannot
	// decode them.
	return nil, false
}

// flatten writes an expression's attributes as they came, in the order of
// their types.
func flatten(data []byte) (string, error) {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return "", err
	}
	var attrs []string
	for ad.Next() {
		attrs = append(attrs, fmt.Sprintf("%d=%x", ad.Type(), ad.Bytes()))
	}
	slices.Sort(attrs)
	return strings.Join(attrs, " "), ad.Err()
}

func isVerdict(immediate []byte) bool {
	ad, err := netlink.NewAttributeDecoder(immediate)
	if err != nil {
		return false
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		if ad.Type() == unix.NFTA_IMMEDIATE_DREG {
			return ad.Uint32() == unix.NFT_REG_VERDICT
		}
	}
	return false
}

// body returns the canonical form of a rule of ours.
func (r rule) body(family nftables.TableFamily) ([]string, error) {
	var list []netlink.Attribute
	for _, e := range r.exprs() {
		b, err := expr.Marshal(byte(family), e)
		if err != nil {
			return nil, err
		}
		list = append(list, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: b})
	}
	data, err := netlink.MarshalAttributes(list)
	if err != nil {
		return nil, err
	}
	body, _, _, err := canonical(family, data)
	return body, err
}

// familyOfRules returns a function that says which one family a rule is for,
// or "": in an inet table the rule then begins by asking for it.
func familyOfRules(t nftables.TableFamily) (func(kernelRule) string, error) {
	switch t {
	case nftables.TableFamilyIPv4:
		return func(kernelRule) string { return intercept.IPv4.String() }, nil
	case nftables.TableFamilyIPv6:
		return func(kernelRule) string { return intercept.IPv6.String() }, nil
	}
	ipv4, err := rule{stmts: []stmt{nfproto(intercept.IPv4)}}.body(t)
	if err != nil {
		return nil, err
	}
	ipv6, err := rule{stmts: []stmt{nfproto(intercept.IPv6)}}.body(t)
	if err != nil {
		return nil, err
	}
	return func(r kernelRule) string {
		switch n := len(ipv4); {
		case len(r.body) < n:
		case slices.Equal(r.body[:n], ipv4):
			return intercept.IPv4.String()
		case slices.Equal(r.body[:n], ipv6):
			return intercept.IPv6.String()
		}
		return ""
	}, nil
}

//go:build linux

package nft

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/nlattr"
	"github.com/mesh-intercept/intercept/ruleset"
)

// state is what the kernel holds under our table's name, in any family.
type state []kernelTable

type kernelTable struct {
	tableHead
	spec string // empty: not ours
	// first are others' NAT chains at the priority of ours.
	first  []firstChain
	chains []kernelChain
	sets   []kernelSet
	rules  map[string][]kernelRule // by chain
}

// firstChain is another's NAT chain at the priority of ours.
type firstChain struct {
	in    tableName
	chain kernelChain
	id    chainID
	// newer is whether its table was made after ours, so that the chain was, too.
	newer bool
}

// chainID tells a chain from all others, and from those that will have its name: the handles of its table and its own.
type chainID struct{ table, chain uint64 }

type kernelChain struct {
	name     string
	handle   uint64
	base     bool
	hook     uint32
	priority int32
	typ      string
	drops    bool // its policy
	device   bool // its hook is that of a network device
	flags    uint32
	comment  string
}

type kernelSet struct {
	name     string
	key      uint32 // number of the type, as nft(8) has it
	flags    uint32
	more     bool     // it does something for each element, such as to count or to limit
	elements elements // sorted
}

type kernelRule struct {
	comment string
	body    string // canonical
	counted
}

// counted is what a rule has counted, if it has a counter.
type counted struct {
	is             bool
	packets, bytes uint64
}

// isNote reports whether the rule holds a part of the note.
func (r kernelRule) isNote() bool { return ruleset.IsNote(r.comment) }

// listing is which tables and chains there are, anybody's.
type listing struct {
	// generation is that of the rules before they were listed. Where the rules are still of it, so is the listing.
	generation uint32
	tables     []tableHead
	chains     []listedChain
}

type listedChain struct {
	in tableName
	kernelChain
}

// look lists tables and chains, or returns what was listed before if nobody has changed any rules since. See
// [Conn.Forget].
func (conn *Conn) look() (*listing, error) {
	generation, err := conn.generation()
	if err != nil || conn.seen != nil && conn.seen.generation == generation {
		return conn.seen, err
	}
	l := &listing{generation: generation}
	if l.tables, err = conn.tables(unix.NFPROTO_UNSPEC); err != nil {
		return nil, err
	}
	if len(l.tables) > 0 {
		err = conn.chains(unix.NFPROTO_UNSPEC, func(in tableName, c kernelChain) {
			l.chains = append(l.chains, listedChain{in, c})
		})
	}
	if err != nil {
		return nil, err
	}
	conn.seen = l
	return l, nil
}

// find returns our tables without their content: enough to know whether there
// is anything and who made it. What holds of them holds in the generation.
func (conn *Conn) find() (st state, generation uint32, err error) {
	l, err := conn.look()
	if err != nil {
		return nil, 0, err
	}
	for _, t := range l.tables {
		if t.name == Table {
			st = append(st, kernelTable{tableHead: t})
		}
	}
	if len(st) == 0 {
		return nil, l.generation, nil
	}
	handles := map[tableName]uint64{}
	for _, t := range l.tables {
		if !t.isDormant() {
			handles[t.tableName] = t.handle
		}
	}
	for _, c := range l.chains {
		for i := range st {
			if at, awake := handles[c.in]; awake && c.in.name != Table && c.isFirstNAT() && c.in.meets(st[i].family) {
				st[i].first = append(st[i].first, firstChain{c.in, c.kernelChain, chainID{at, c.handle}, at > st[i].handle})
			}
			if c.in.name != Table || c.in.family != st[i].family {
				continue
			}
			if strings.HasPrefix(c.name, specPrefix) {
				st[i].spec = c.name
			}
			st[i].chains = append(st[i].chains, c.kernelChain)
		}
	}
	return st, l.generation, nil
}

type tableName struct {
	family nftables.TableFamily
	name   string
}

// meets reports whether packets of a family of tables can meet the table.
func (t tableName) meets(family nftables.TableFamily) bool {
	const both = nftables.TableFamilyINet
	ip := t.family == nftables.TableFamilyIPv4 || t.family == nftables.TableFamilyIPv6
	return t.family == family || t.family == both || family == both && ip
}

// isFirstNAT reports whether it is a NAT chain at the priority of ours.
func (c kernelChain) isFirstNAT() bool {
	return c.base && c.typ == ruleset.NATChain.String() && c.priority == int32(ruleset.PriorityFirstNAT)
}

// tableHead is a table without its content.
type tableHead struct {
	tableName
	flags uint32
	// handle is the greater the later the table was made.
	handle uint64
}

func (t tableHead) isDormant() bool { return t.flags&unix.NFT_TABLE_F_DORMANT != 0 }

// tables lists the tables of a family, or of all, in the order in which they were made.
func (conn *Conn) tables(family nftables.TableFamily) (tables []tableHead, err error) {
	const handle = 4 // NFTA_TABLE_HANDLE
	err = conn.dump(unix.NFT_MSG_GETTABLE, family, nil, func(family nftables.TableFamily, message []byte) error {
		t := tableHead{tableName: tableName{family: family}}
		for typ, data := range nlattr.All(message) {
			switch {
			case typ == unix.NFTA_TABLE_NAME:
				t.name = zeroTerminated(data)
			case typ == unix.NFTA_TABLE_FLAGS && len(data) == 4:
				t.flags = binary.BigEndian.Uint32(data)
			case typ == handle && len(data) == 8:
				t.handle = binary.BigEndian.Uint64(data)
			}
		}
		tables = append(tables, t)
		return nil
	})
	return tables, explain(subsystem(err), "list tables")
}

// chains lists the chains of a family, or of all.
func (conn *Conn) chains(family nftables.TableFamily, f func(tableName, kernelChain)) error {
	const chainFlags, hookDevs, handle = 10, 4, 2 // NFTA_CHAIN_FLAGS, NFTA_HOOK_DEVS, NFTA_CHAIN_HANDLE
	err := conn.dump(unix.NFT_MSG_GETCHAIN, family, nil, func(family nftables.TableFamily, message []byte) error {
		in := tableName{family: family}
		var c kernelChain
		for typ, data := range nlattr.All(message) {
			switch typ {
			case unix.NFTA_CHAIN_TABLE:
				in.name = zeroTerminated(data)
			case unix.NFTA_CHAIN_NAME:
				c.name = zeroTerminated(data)
			case unix.NFTA_CHAIN_TYPE:
				c.typ = zeroTerminated(data)
			case handle:
				if len(data) == 8 {
					c.handle = binary.BigEndian.Uint64(data)
				}
			case chainUserData:
				c.comment = comment(data)
			case chainFlags:
				if len(data) == 4 {
					c.flags = binary.BigEndian.Uint32(data)
				}
			case unix.NFTA_CHAIN_POLICY:
				c.drops = len(data) == 4 && binary.BigEndian.Uint32(data) != uint32(nftables.ChainPolicyAccept)
			case unix.NFTA_CHAIN_HOOK:
				c.base = true
				for typ, data := range nlattr.All(data) {
					switch {
					case typ == unix.NFTA_HOOK_DEV, typ == hookDevs:
						c.device = true
					case len(data) != 4:
					case typ == unix.NFTA_HOOK_HOOKNUM:
						c.hook = binary.BigEndian.Uint32(data)
					case typ == unix.NFTA_HOOK_PRIORITY:
						c.priority = int32(binary.BigEndian.Uint32(data))
					}
				}
			}
		}
		f(in, c)
		return nil
	})
	return explain(err, "list chains")
}

// sets lists the sets of a table, without their elements.
func (conn *Conn) sets(family nftables.TableFamily, table string) (sets []kernelSet, err error) {
	const expression, expressions = 17, 18 // NFTA_SET_EXPR, NFTA_SET_EXPRESSIONS
	err = conn.dump(unix.NFT_MSG_GETSET, family, []netlink.Attribute{text(unix.NFTA_SET_TABLE, table)},
		func(_ nftables.TableFamily, message []byte) error {
			var s kernelSet
			for typ, data := range nlattr.All(message) {
				switch {
				case typ == unix.NFTA_SET_NAME:
					s.name = zeroTerminated(data)
				case typ == expression, typ == expressions:
					s.more = true
				case len(data) != 4:
				case typ == unix.NFTA_SET_KEY_TYPE:
					s.key = binary.BigEndian.Uint32(data)
				case typ == unix.NFTA_SET_FLAGS:
					s.flags = binary.BigEndian.Uint32(data)
				}
			}
			sets = append(sets, s)
			return nil
		})
	return sets, err
}

//go:noinline
func zeroTerminated(b []byte) string {
	before, _, _ := bytes.Cut(b, []byte{0})
	return string(before)
}

// foreign reports a table of our name that has no mark of ours.
func (st state) foreign() error {
	for _, t := range st {
		if t.spec == "" {
			return fmt.Errorf("table %s %s: %w; rename it or remove it with `nft delete table %s %s`",
				familyName(t.family), Table, ruleset.ErrForeign, familyName(t.family), Table)
		}
	}
	return nil
}

// load reads the content of the tables found. The error is errChanged if one
// of them went away meanwhile.
func (conn *Conn) load(st state) error {
	for i := range st {
		if err := orChanged(conn.loadTable(&st[i])); err != nil {
			return explain(err, "read the rules back")
		}
	}
	return nil
}

func (conn *Conn) loadTable(t *kernelTable) (err error) {
	if t.rules, err = conn.rules(t.family); err != nil {
		return err
	}
	if t.sets, err = conn.sets(t.family, Table); err != nil {
		return err
	}
	for i := range t.sets {
		s := &t.sets[i]
		if s.elements, err = conn.elements(t.family, s.name); err != nil {
			return fmt.Errorf("set %s: %w", s.name, err)
		}
	}
	return nil
}

// rules reads all rules of our table of one family, by chain.
func (conn *Conn) rules(family nftables.TableFamily) (map[string][]kernelRule, error) {
	rules := map[string][]kernelRule{}
	var body []byte // of one rule after the other
	err := conn.dump(unix.NFT_MSG_GETRULE, family, []netlink.Attribute{
		text(unix.NFTA_RULE_TABLE, Table),
	}, func(_ nftables.TableFamily, message []byte) error {
		var chain []byte
		var r kernelRule
		for typ, data, rest, ok := nlattr.Cut(message); ok; typ, data, rest, ok = nlattr.Cut(rest) {
			switch typ {
			case unix.NFTA_RULE_CHAIN:
				chain, _, _ = bytes.Cut(data, []byte{0})
			case unix.NFTA_RULE_USERDATA:
				r.comment = comment(data)
			case unix.NFTA_RULE_EXPRESSIONS:
				body, r.counted = appendCanonical(body[:0], data)
				r.body = string(body)
			}
		}
		rules[string(chain)] = append(rules[string(chain)], r)
		return nil
	})
	return rules, err
}

// comment returns the comment in a rule's user data, a list of types, lengths and
// values (libnftnl's udata.c), or "". The kernel keeps what it is given, whatever it
// is; the library's Get takes its lengths to be right.
func comment(data []byte) string {
	for len(data) >= 2 && len(data)-2 >= int(data[1]) {
		value := data[2 : 2+int(data[1])]
		if userdata.Type(data[0]) == userdata.TypeComment {
			return strings.TrimSuffix(string(value), "\x00")
		}
		data = data[2+len(value):]
	}
	return ""
}

// generation returns the number of the rules' generation: every transaction
// that changes rules in the namespace, anybody's, makes a new one.
func (conn *Conn) generation() (id uint32, err error) {
	err = conn.ask(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil, func(_ nftables.TableFamily, message []byte) error {
		for typ, data := range nlattr.All(message) {
			if typ == unix.NFTA_GEN_ID && len(data) == 4 {
				id = binary.BigEndian.Uint32(data)
			}
		}
		return nil
	})
	if err == nil && id == 0 {
		err = errors.New("the kernel did not tell")
	}
	return id, explain(subsystem(err), "read the generation of the rules")
}

// subsystem reads the errno of a request in which nothing can be invalid: the
// kernel says EINVAL if it has no nf_tables (net/netfilter/nfnetlink.c).
func subsystem(err error) error {
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("%w, so it has no nf_tables: %w", err, unix.EPROTONOSUPPORT)
	}
	return err
}

// dump asks the kernel for objects and hands each of its messages to f.
func (conn *Conn) dump(message uint16, family nftables.TableFamily, filter []netlink.Attribute,
	f func(nftables.TableFamily, []byte) error) error {
	return conn.ask(message, netlink.Dump, family, filter, f)
}

// ask reads the kernel's answer itself: the library passes over expressions it
// does not know, and what is passed over would count as equal; it does not
// always hand on the errno; and it waits with select(2), which knows no file
// descriptor above 1023 and makes it panic in a process that has more.
func (conn *Conn) ask(message uint16, flags netlink.HeaderFlags, family nftables.TableFamily,
	filter []netlink.Attribute, f func(nftables.TableFamily, []byte) error) error {
	m, err := request(message, flags, family, filter)
	if err != nil {
		return err
	}
	replies, err := conn.sock.Execute(m)
	if err != nil {
		return err
	}
	const header = 4 // struct nfgenmsg
	for _, m := range replies {
		if len(m.Data) < header {
			return fmt.Errorf("netlink message of %d bytes", len(m.Data))
		}
		if err := f(nftables.TableFamily(m.Data[0]), m.Data[header:]); err != nil {
			return err
		}
	}
	return nil
}

// appendCanonical writes the expressions of a rule in a form that is the same for
// what was sent and for what the kernel gives back, and takes out the counts.
func appendCanonical(b, list []byte) (_ []byte, c counted) {
	for {
		_, e, rest, ok := nlattr.Cut(list)
		if !ok {
			return b, c
		}
		list = rest
		var name, data []byte
		for typ, d, rest, ok := nlattr.Cut(e); ok; typ, d, rest, ok = nlattr.Cut(rest) {
			switch typ {
			case unix.NFTA_EXPR_NAME:
				name, _, _ = bytes.Cut(d, []byte{0})
			case unix.NFTA_EXPR_DATA:
				data = d
			}
		}
		switch string(name) {
		case "counter":
			b = append(append(b, name...), '(')
			c.is = true
			for typ, d, rest, ok := nlattr.Cut(data); ok; typ, d, rest, ok = nlattr.Cut(rest) {
				switch {
				case len(d) != 8:
				case typ == unix.NFTA_COUNTER_PACKETS:
					c.packets += binary.BigEndian.Uint64(d)
				case typ == unix.NFTA_COUNTER_BYTES:
					c.bytes += binary.BigEndian.Uint64(d)
				}
			}
		case "range":
			if from, to, is := comparisons(data); is {
				b = append(appendExpression(append(b, "cmp("...), "cmp", from), ')')
				b = appendExpression(append(b, "cmp("...), "cmp", to)
				break
			}
			fallthrough
		default:
			b = appendExpression(append(append(b, name...), '('), string(name), data)
		}
		b = append(b, ')')
	}
}

// comparisons returns the two comparisons that do the same as a range that is asked for: nft(8) writes it as one
// expression in version 1.1, and as two in 1.0.6, as we do.
func comparisons(data []byte) (from, to []byte, is bool) {
	values := values(data)
	if !bytes.Equal(values[unix.NFTA_RANGE_OP], be32(unix.NFT_RANGE_EQ)) {
		return nil, nil, false
	}
	comparison := func(op uint32, with []byte) (data []byte) {
		data, _ = netlink.MarshalAttributes([]netlink.Attribute{
			{Type: unix.NFTA_CMP_SREG, Data: values[unix.NFTA_RANGE_SREG]},
			{Type: unix.NFTA_CMP_OP, Data: be32(op)},
			{Type: unix.NFTA_CMP_DATA, Data: with},
		})
		return data
	}
	return comparison(unix.NFT_CMP_GTE, values[unix.NFTA_RANGE_FROM_DATA]),
		comparison(unix.NFT_CMP_LTE, values[unix.NFTA_RANGE_TO_DATA]), true
}

// values are the attributes of an expression by their types. Greater ones are none of those we send; kernels may come to
// add some.
func values(data []byte) (all [10][]byte) {
	for typ, d, rest, ok := nlattr.Cut(data); ok; typ, d, rest, ok = nlattr.Cut(rest) {
		if int(typ) < len(all) {
			all[typ] = d
		}
	}
	return all
}

// appendExpression writes the attributes of an expression that are part of its
// meaning, in the order of their types.
func appendExpression(b []byte, name string, data []byte) []byte {
	values := values(data)
	drop := func(typ int, why bool) {
		if why {
			values[typ] = nil
		}
	}
	zero := func(typ int) bool { return len(bytes.Trim(values[typ], "\x00")) == 0 }
	same := func(x, y int) bool { return bytes.Equal(values[x], values[y]) }
	switch name {
	case "lookup":
		drop(unix.NFTA_LOOKUP_SET_ID, true) // of the transaction that made the set
		drop(unix.NFTA_LOOKUP_FLAGS, zero(unix.NFTA_LOOKUP_FLAGS))
	case "bitwise":
		drop(bitwiseOp, zero(bitwiseOp)) // since Linux 5.6
	case "nat":
		// The kernel gives the end of a range where none was sent.
		drop(unix.NFTA_NAT_REG_ADDR_MAX, same(unix.NFTA_NAT_REG_ADDR_MAX, unix.NFTA_NAT_REG_ADDR_MIN))
		if f := values[unix.NFTA_NAT_FLAGS]; len(f) == 4 {
			// It also sets a flag that says there is an address.
			values[unix.NFTA_NAT_FLAGS] = be32(binary.BigEndian.Uint32(f) &^ unix.NF_NAT_RANGE_MAP_IPS)
		}
		drop(unix.NFTA_NAT_FLAGS, zero(unix.NFTA_NAT_FLAGS))
		drop(unix.NFTA_NAT_REG_PROTO_MAX, same(unix.NFTA_NAT_REG_PROTO_MAX, unix.NFTA_NAT_REG_PROTO_MIN))
	case "reject":
		// A reset has no code. We send one all the same, and get none back.
		reset := bytes.Equal(values[unix.NFTA_REJECT_TYPE], be32(unix.NFT_REJECT_TCP_RST))
		drop(unix.NFTA_REJECT_ICMP_CODE, reset)
	case "redir":
		drop(unix.NFTA_REDIR_REG_PROTO_MAX, same(unix.NFTA_REDIR_REG_PROTO_MAX, unix.NFTA_REDIR_REG_PROTO_MIN))
	}
	for typ, v := range values {
		switch {
		case v == nil:
		case isNested(name, uint16(typ)):
			b = appendData(b, v)
		default:
			b = appendValue(b, uint16(typ), v)
		}
	}
	return b
}

// appendData writes a struct nft_data: a value, or a verdict with its code and chain.
func appendData(b, data []byte) []byte {
	for typ, d, rest, ok := nlattr.Cut(data); ok; typ, d, rest, ok = nlattr.Cut(rest) {
		if typ == unix.NFTA_DATA_VERDICT {
			b = appendParts(b, d)
		} else {
			b = appendValue(b, typ, d)
		}
	}
	return b
}

func appendParts(b, verdict []byte) []byte {
	for typ, d, rest, ok := nlattr.Cut(verdict); ok; typ, d, rest, ok = nlattr.Cut(rest) {
		b = appendValue(b, typ, d)
	}
	return b
}

// appendValue writes an attribute so that no two values look alike.
func appendValue(b []byte, typ uint16, value []byte) []byte {
	return append(append(b, byte(typ), byte(len(value))), value...)
}

const bitwiseOp = 6 // NFTA_BITWISE_OP

// isNested reports whether an attribute of an expression is a struct nft_data.
func isNested(name string, typ uint16) bool {
	switch name {
	case "immediate":
		return typ == unix.NFTA_IMMEDIATE_DATA
	case "cmp":
		return typ == unix.NFTA_CMP_DATA
	case "range":
		return typ == unix.NFTA_RANGE_FROM_DATA || typ == unix.NFTA_RANGE_TO_DATA
	case "bitwise":
		return typ == unix.NFTA_BITWISE_MASK || typ == unix.NFTA_BITWISE_XOR
	}
	return false
}

// body returns the canonical form of a rule of ours.
func (r rule) body() string {
	body, _ := appendCanonical(make([]byte, 0, len(r.encoded)), r.encoded)
	return string(body)
}

// encode encodes the expressions of a rule's statements.
func encode(family nftables.TableFamily, stmts []stmt) ([]byte, error) {
	return appendEncoded(nil, family, stmts)
}

// appendEncoded is encode, behind what a list has already.
func appendEncoded(list []byte, family nftables.TableFamily, stmts []stmt) (_ []byte, err error) {
	for _, s := range stmts {
		for _, e := range s.exprs {
			b, err := marshal(family, e)
			if err != nil {
				return nil, err
			}
			if list, err = appendAttribute(list, unix.NLA_F_NESTED|unix.NFTA_LIST_ELEM, b); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// marshal encodes one expression. Two the library does not write as we need them: it leaves out the direction that a
// zone or an address is of, and writes a level into each socket expression, which the kernel lists of those alone that
// ask for a cgroup, so that what is read back would differ.
func marshal(family nftables.TableFamily, e expr.Any) ([]byte, error) {
	switch e := e.(type) {
	case *expr.Ct:
		if e.OptDirection {
			register := uint16(unix.NFTA_CT_DREG)
			if e.SourceRegister {
				register = unix.NFTA_CT_SREG
			}
			return expression("ct", number(unix.NFTA_CT_KEY, uint32(e.Key)), number(register, e.Register),
				netlink.Attribute{Type: unix.NFTA_CT_DIRECTION, Data: []byte{byte(e.Direction)}})
		}
	case *expr.Socket:
		return expression("socket", number(expr.NFTA_SOCKET_KEY, uint32(e.Key)),
			number(expr.NFTA_SOCKET_DREG, e.Register))
	}
	return expr.Marshal(byte(family), e)
}

// expression encodes the attributes of an expression.
func expression(name string, attrs ...netlink.Attribute) ([]byte, error) {
	data, err := netlink.MarshalAttributes(attrs)
	if err != nil {
		return nil, err
	}
	return netlink.MarshalAttributes([]netlink.Attribute{
		text(unix.NFTA_EXPR_NAME, name), {Type: unix.NLA_F_NESTED | unix.NFTA_EXPR_DATA, Data: data}})
}

// familyOfRules returns a function that says which one family a rule is for,
// or "": in an inet table the rule then begins by asking for it.
func familyOfRules(t nftables.TableFamily) (func(kernelRule) string, error) {
	switch t {
	case nftables.TableFamilyIPv4:
		return func(kernelRule) string { return ruleset.IPv4.String() }, nil
	case nftables.TableFamilyIPv6:
		return func(kernelRule) string { return ruleset.IPv6.String() }, nil
	}
	var guards [2]string
	for i, f := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		guard, err := encode(t, []stmt{nfproto(f)})
		if err != nil {
			return nil, err
		}
		guards[i] = rule{encoded: guard}.body()
	}
	return func(r kernelRule) string {
		switch {
		case strings.HasPrefix(r.body, guards[0]):
			return ruleset.IPv4.String()
		case strings.HasPrefix(r.body, guards[1]):
			return ruleset.IPv6.String()
		}
		return ""
	}, nil
}

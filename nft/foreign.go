//go:build linux

package nft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/nlattr"
	"github.com/mesh-intercept/intercept/ruleset"
)

func (conn *Conn) foreignChains() ([]beside.Chain, error) {
	l, err := conn.look()
	if err != nil {
		return nil, err
	}
	of := map[tableName][]beside.Chain{}
	for _, t := range l.tables {
		if t.name != Table && t.name != TraceTable { // that of a trace at work judges nothing
			of[t.tableName] = []beside.Chain{{Family: familyName(t.family), Table: t.name, Dormant: t.isDormant()}}
		}
	}
	if len(of) == 0 {
		return nil, nil
	}
	registered, err := conn.registration()
	if err != nil {
		return nil, err
	}
	for _, c := range l.chains {
		if len(of[c.in]) == 0 { // ours, or of a table that was made meanwhile
			continue
		}
		o := of[c.in][0]
		o.Name, o.Base, o.Type, o.Priority, o.Drops = c.name, c.base, c.typ, c.priority, c.drops
		if c.base {
			o.Hook = hookName(c.in.family, c.hook)
		}
		if o.Registered = registered[c]; o.Registered == "" && c.isFirstNAT() {
			o.Registered = beside.BeforeOurs // as soon as there are ours
		}
		of[c.in] = append(of[c.in], o)
	}
	var all []beside.Chain
	for _, t := range l.tables {
		all = append(all, of[t.tableName]...)
	}
	return all, nil
}

// hookName is nft's word for a hook by its number (linux/netfilter.h, linux/netfilter_netdev.h), or nothing.
func hookName(family nftables.TableFamily, n uint32) string {
	const postrouting = ""
	names := []string{ruleset.Prerouting.String(), ruleset.Input.String(), ruleset.Forward.String(),
		ruleset.Output.String(), postrouting, beside.Ingress}
	if family == nftables.TableFamilyNetdev {
		names = []string{beside.Ingress, beside.Egress}
	}
	if int(n) < len(names) {
		return names[n]
	}
	return ""
}

func (conn *Conn) foreignRules(chains []beside.Chain) error {
	type key struct{ family, table, chain string }
	index := map[key]int{}
	for i, c := range chains {
		if !c.Legacy && c.Name != "" {
			index[key{c.Family, c.Table, c.Name}] = i
		}
	}
	if len(index) == 0 {
		return nil
	}
	var asked []setOf
	err := conn.anyRules(func(in tableName, chain string, r beside.Rule, _ []byte, sets []string) {
		r.Idle = r.Idle && r.Comment == "" && len(r.Acts) == 0 && len(r.To) == 0 && !r.Mapped
		i, known := index[key{familyName(in.family), in.name, chain}]
		if known && r.Else != "" {
			chains[i].Else = append(chains[i].Else, r.Else)
		}
		switch {
		case known && r.Matters():
			for _, set := range sets[:min(len(sets), mostSets-min(len(asked), mostSets))] {
				asked = append(asked, setOf{in, set, i, len(chains[i].Rules)})
			}
			chains[i].Rules = append(chains[i].Rules, r)
		case known && r.Idle && chains[i].Base:
			chains[i].Idle = append(chains[i].Idle, r)
		}
	})
	for _, s := range asked {
		if err != nil {
			break
		}
		r := &chains[s.chain].Rules[s.rule]
		err = conn.eachElement(s.in.family, s.in.name, s.name, func(key []byte, end bool) {
			const most = 16
			if len(key) >= 2 && !end && len(r.Called) < most {
				r.Called = append(r.Called, binary.BigEndian.Uint16(key))
			}
		})
		if errors.Is(err, unix.ENOENT) { // it is gone by now
			err = nil
		}
	}
	return explain(err, "list the rules of others")
}

// mostSets is of how many sets the ports are looked at.
const mostSets = 64

// setOf is a set of ports that a rule asks.
type setOf struct {
	in          tableName
	name        string
	chain, rule int
}

// anyRules hands on every rule of the namespace: its table, its chain, what is known of it, its expressions, and
// the sets of ports that it asks.
func (conn *Conn) anyRules(f func(in tableName, chain string, r beside.Rule, expressions []byte, sets []string)) error {
	return conn.dump(unix.NFT_MSG_GETRULE, unix.NFPROTO_UNSPEC, nil, func(family nftables.TableFamily, message []byte) error {
		in, chain := tableName{family: family}, ""
		var r beside.Rule
		var expressions []byte
		var sets []string
		for typ, data := range nlattr.All(message) {
			switch typ {
			case unix.NFTA_RULE_TABLE:
				in.name = zeroTerminated(data)
			case unix.NFTA_RULE_CHAIN:
				chain = zeroTerminated(data)
			case unix.NFTA_RULE_HANDLE:
				if len(data) == 8 {
					r.Handle = binary.BigEndian.Uint64(data)
				}
			case unix.NFTA_RULE_USERDATA:
				r.Comment = comment(data)
			case unix.NFTA_RULE_EXPRESSIONS:
				expressions = data
				sets = readActs(&r, data, family == nftables.TableFamilyIPv6)
			}
		}
		f(in, chain, r, expressions, sets)
		return nil
	})
}

// readActs reads what the expressions of a rule do, and where they lead. It returns the sets of ports that it asks.
func readActs(r *beside.Rule, list []byte, ipv6 bool) []string {
	add := func(a beside.Act) {
		if !slices.Contains(r.Acts, a) {
			r.Acts = append(r.Acts, a)
		}
	}
	loaded := map[string][]byte{} // what registers hold
	addPort := func(register []byte) {
		if d := valueOf(loaded[string(register)]); len(d) >= 2 {
			r.Ports = append(r.Ports, binary.BigEndian.Uint16(d))
		}
	}
	var goes destination
	var by []byte  // the register that has the interface by which a packet arrives
	var index bool // it has its number
	for _, e := range nlattr.All(list) {
		var name string
		var values map[uint16][]byte
		for typ, d := range nlattr.All(e) {
			switch typ {
			case unix.NFTA_EXPR_NAME:
				name = zeroTerminated(d)
			case unix.NFTA_EXPR_DATA:
				values = maps.Collect(nlattr.All(d))
			}
		}
		is := func(typ uint16, n uint32) bool { return len(values[typ]) == 4 && numberOf(values[typ]) == n }
		goes.read(r, name, values)
		switch name {
		case "nat":
			if is(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT) {
				add(beside.DNAT)
				a, _ := netip.AddrFromSlice(valueOf(loaded[string(values[unix.NFTA_NAT_REG_ADDR_MIN])]))
				r.Local = a.IsLoopback()
			}
		case "redir":
			add(beside.Redirect)
			r.Local = true
			addPort(values[unix.NFTA_REDIR_REG_PROTO_MIN])
		case "tproxy":
			add(beside.TProxy)
			addPort(values[tproxyRegPort])
		case "notrack":
			add(beside.NoTrack)
		case "queue":
			add(beside.Queue)
		case "fwd":
			add(beside.Forward)
		case "reject", "synproxy":
			add(beside.Discard)
		case "payload":
			if values[unix.NFTA_PAYLOAD_SREG] != nil {
				add(beside.Rewrite)
			}
		case "ct":
			if values[unix.NFTA_CT_SREG] != nil && is(unix.NFTA_CT_KEY, unix.NFT_CT_ZONE) {
				add(beside.Zone)
			} else if values[unix.NFTA_CT_SREG] != nil {
				r.Else = "CONNMARK"
			}
		case "meta":
			if index = is(unix.NFTA_META_KEY, unix.NFT_META_IIF); index || is(unix.NFTA_META_KEY, unix.NFT_META_IIFNAME) {
				by = values[unix.NFTA_META_DREG]
			} else if values[unix.NFTA_META_SREG] != nil {
				r.Else = "MARK"
			}
			r.ByUser = r.ByUser || is(unix.NFTA_META_KEY, unix.NFT_META_SKUID) || is(unix.NFTA_META_KEY, unix.NFT_META_SKGID)
		case "log":
			r.Else = "LOG"
		case "cmp":
			if by == nil || !bytes.Equal(by, values[unix.NFTA_CMP_SREG]) {
				break
			}
			if by = nil; is(unix.NFTA_CMP_OP, unix.NFT_CMP_EQ) {
				r.Interfaces = append(r.Interfaces, interfaceOf(values[unix.NFTA_CMP_DATA], index))
			}
		case "lookup":
			if by != nil {
				r.Interfaces = append(r.Interfaces, beside.SomeInterfaces)
			}
			// The kernel gives the register where a map puts a verdict: zero.
			r.Mapped = r.Mapped || is(unix.NFTA_LOOKUP_DREG, unix.NFT_REG_VERDICT)
		case "immediate":
			readVerdict(r, values[unix.NFTA_IMMEDIATE_DATA], add)
			loaded[string(values[unix.NFTA_IMMEDIATE_DREG])] = values[unix.NFTA_IMMEDIATE_DATA]
		case "match": // of xtables
			match := zeroTerminated(values[unix.NFTA_MATCH_NAME])
			if match == "comment" {
				r.Comment = zeroTerminated(values[matchInfo])
			}
			r.ByUser = r.ByUser || match == "owner"
			r.Called = append(r.Called, beside.CalledByXTables(match, values[matchInfo])...)
			r.Dst = r.Dst || beside.AsksDestination(match, values[matchInfo])
		case "target": // of xtables
			target, info := zeroTerminated(values[unix.NFTA_TARGET_NAME]), values[targetInfo]
			r.Local = r.Local || beside.ToThisHost(target, info, ipv6)
			if a, known := beside.OfXTables(target, info); known {
				add(a)
			} else {
				r.Else = target
			}
			r.Idle = r.Idle || beside.IsMark(target)
			if port, known := beside.PortOfXTables(target, info); known {
				r.Ports = append(r.Ports, port)
			}
		}
	}
	return goes.sets
}

// destination follows the conditions of a rule on where packets go.
type destination struct {
	port, addr, kind []byte // the registers that have the port, the address, and of which type that is
	sets             []string
}

// read reads an expression. Its attributes have the same numbers: NFTA_…_DREG is 1, and where it compares, the register
// is 1, too (NFTA_CMP_SREG, NFTA_RANGE_SREG).
func (g *destination) read(r *beside.Rule, name string, values map[uint16][]byte) {
	const inverted, v4At, v6At = 1, 16, 24 // NFT_LOOKUP_F_INV, and where the destination is in a header
	register := string(values[unix.NFTA_CMP_SREG])
	port, addr, kind := register == string(g.port), register == string(g.addr), g.kind != nil && register == string(g.kind)
	switch name {
	case "cmp":
		if op := numberOf(values[unix.NFTA_CMP_OP]); op == unix.NFT_CMP_EQ || op == unix.NFT_CMP_GTE {
			r.Dst = r.Dst || kind
			g.asks(r, port, addr, valueOf(values[unix.NFTA_CMP_DATA]))
		}
	case "range":
		if numberOf(values[unix.NFTA_RANGE_OP]) == unix.NFT_RANGE_EQ {
			g.asks(r, port, addr, valueOf(values[unix.NFTA_RANGE_FROM_DATA]))
		}
	case "lookup":
		register = string(values[unix.NFTA_LOOKUP_SREG])
		if numberOf(values[unix.NFTA_LOOKUP_FLAGS])&inverted != 0 {
			break
		}
		r.Dst = r.Dst || g.addr != nil && register == string(g.addr) || g.kind != nil && register == string(g.kind)
		if g.port != nil && register == string(g.port) && values[unix.NFTA_LOOKUP_DREG] == nil {
			g.sets = append(g.sets, zeroTerminated(values[unix.NFTA_LOOKUP_SET]))
		}
	case "payload", "meta", "ct", "immediate", "rt", "fib", "exthdr", "numgen":
		if port {
			g.port = nil
		}
		if addr {
			g.addr = nil
		}
		if kind {
			g.kind = nil
		}
		if name == "fib" && numberOf(values[unix.NFTA_FIB_FLAGS])&unix.NFTA_FIB_F_DADDR != 0 {
			g.kind = values[unix.NFTA_FIB_DREG]
		}
		if name != "payload" {
			break
		}
		at, size := numberOf(values[unix.NFTA_PAYLOAD_OFFSET]), numberOf(values[unix.NFTA_PAYLOAD_LEN])
		switch base := numberOf(values[unix.NFTA_PAYLOAD_BASE]); {
		case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && at == 2 && size == 2:
			g.port = values[unix.NFTA_PAYLOAD_DREG]
		case base == unix.NFT_PAYLOAD_NETWORK_HEADER && (at == v4At && size <= 4 || at == v6At && size > 4):
			g.addr = values[unix.NFTA_PAYLOAD_DREG]
		}
	}
}

// asks notes what the port, or the address, is compared with.
func (g *destination) asks(r *beside.Rule, port, addr bool, value []byte) {
	switch {
	case g.port != nil && port && len(value) == 2:
		r.Called = append(r.Called, binary.BigEndian.Uint16(value))
	case g.addr != nil && addr:
		r.Dst = true
		var whole [16]byte // a network of whole bytes is compared by these alone
		if copy(whole[:], value); len(value) > 4 {
			r.Dsts = append(r.Dsts, netip.AddrFrom16(whole))
		} else {
			r.Dsts = append(r.Dsts, netip.AddrFrom4([4]byte(whole[:])))
		}
	}
}

// numberOf reads a number, and valueOf the bytes of a struct nft_data.
//
//go:noinline
func numberOf(d []byte) uint32 {
	if len(d) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(d)
}

func valueOf(data []byte) []byte {
	for typ, d, rest, ok := nlattr.Cut(data); ok; typ, d, rest, ok = nlattr.Cut(rest) {
		if typ == unix.NFTA_DATA_VALUE {
			return d
		}
	}
	return nil
}

// interfaceOf reads the struct nft_data with which the name of an interface is compared, or its number.
func interfaceOf(data []byte, index bool) string {
	switch d := valueOf(data); {
	case index && len(d) == 4:
		if i, err := net.InterfaceByIndex(int(binary.NativeEndian.Uint32(d))); err == nil {
			return i.Name
		}
	case !index && len(d) > 0:
		if bytes.IndexByte(d, 0) < 0 && len(d) < unix.IFNAMSIZ { // what begins so
			return string(d) + "*"
		}
		return zeroTerminated(d)
	}
	return beside.SomeInterfaces
}

const (
	targetInfo = 3 // NFTA_TARGET_INFO
	// NFTA_TPROXY_REG_PORT
	tproxyRegPort = 3
	matchInfo     = 3 // NFTA_MATCH_INFO
	nfDrop        = 0 // NF_DROP
	nfAccept      = 1 // NF_ACCEPT
)

// readVerdict reads a struct nft_data.
func readVerdict(r *beside.Rule, data []byte, add func(beside.Act)) {
	for typ, d := range nlattr.All(data) {
		if typ != unix.NFTA_DATA_VERDICT {
			continue
		}
		for typ, d := range nlattr.All(d) {
			switch {
			case typ == unix.NFTA_VERDICT_CHAIN:
				r.To = append(r.To, zeroTerminated(d))
			case typ == unix.NFTA_VERDICT_CODE && len(d) == 4 && binary.BigEndian.Uint32(d) == nfDrop:
				add(beside.Discard)
			case typ == unix.NFTA_VERDICT_CODE && len(d) == 4 && binary.BigEndian.Uint32(d) == nfAccept:
				r.Else = "ACCEPT"
			case typ == unix.NFTA_VERDICT_CODE && len(d) == 4 && int32(binary.BigEndian.Uint32(d)) == unix.NFT_RETURN:
				r.Idle = true
			}
		}
	}
}

func (conn *Conn) removeForeign(ctx context.Context,
	plan func([]beside.Chain) (beside.Removal, error)) (r beside.Removal, err error) {
	var unheard beside.Removal // one to which the kernel's answer was lost
	for range maxAttempts {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		generation, err := conn.generation()
		if err != nil {
			return r, err
		}
		chains, err := conn.foreignChains()
		if err == nil {
			err = conn.foreignRules(chains)
		}
		if err != nil {
			return r, err
		}
		if r, err = plan(chains); err != nil {
			return r, err
		} else if r.IsEmpty() {
			return unheard, nil
		}
		var t batch
		t.removeForeign(r)
		err = conn.commit(&t, generation)
		if errors.Is(err, unix.ENOBUFS) {
			unheard = r
		} else if !errors.Is(err, unix.ERESTART) {
			return r, explain(err, "remove the rules of others")
		}
	}
	return r, fmt.Errorf("remove the rules of others: the tables changed under %d attempts; another program keeps "+
		"writing them", maxAttempts)
}

// removeForeign takes out rules first, and chains when no rule leads to them any more.
func (b *batch) removeForeign(r beside.Removal) {
	in := func(c beside.Chain, table, chain uint16) []netlink.Attribute {
		return []netlink.Attribute{text(table, c.Table), text(chain, c.Name)}
	}
	for _, rule := range r.Rules {
		handle := netlink.Attribute{Type: unix.NFTA_RULE_HANDLE, Data: binary.BigEndian.AppendUint64(nil, rule.Handle)}
		b.add(unix.NFT_MSG_DELRULE, 0, familyOf(rule.In),
			append(in(rule.In, unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN), handle)...)
	}
	for _, c := range r.Chains {
		b.add(unix.NFT_MSG_DELRULE, 0, familyOf(c), in(c, unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN)...)
	}
	for _, c := range r.Chains {
		b.deleteChain(familyOf(c), c.Table, c.Name)
	}
	for _, t := range r.Tables {
		b.deleteTable(familyOf(t), t.Table)
	}
}

func familyOf(c beside.Chain) nftables.TableFamily {
	for _, f := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6,
		nftables.TableFamilyARP, nftables.TableFamilyBridge, nftables.TableFamilyNetdev} {
		if familyName(f) == c.Family {
			return f
		}
	}
	return nftables.TableFamilyUnspecified
}

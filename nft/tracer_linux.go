package nft

import (
	"context"
	"errors"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/nlattr"
	"github.com/mesh-intercept/intercept/ruleset"
)

// tableOwner is NFT_TABLE_F_OWNER of linux/netfilter/nf_tables.h.
const tableOwner = 2

func (t *Tracer) create(chains []ruleset.Chain) error {
	lowered := table{family: nftables.TableFamilyINet}
	for _, c := range chains {
		lc := chain{name: c.Name, hook: c.Hook, priority: c.Priority, typ: c.Type}
		for _, r := range c.Rules {
			if err := lowered.lower(&lc, r); err != nil {
				return &ruleset.RuleError{Chain: c.Name, Rule: r.ID, Err: err}
			}
		}
		for i := range lc.rules {
			r := &lc.rules[i]
			if r.id == NotTraced {
				continue
			}
			var err error
			// Before the rule's target, which ends it.
			r.stmts = slices.Insert(r.stmts, len(r.stmts)-1, stmt{"meta nftrace set 1", []expr.Any{
				&expr.Immediate{Register: 1, Data: []byte{1}},
				&expr.Meta{Key: expr.MetaKeyNFTRACE, SourceRegister: true, Register: 1}}})
			if r.encoded, err = encode(lowered.family, r.stmts); err != nil {
				return err
			}
		}
		lowered.chains = append(lowered.chains, lc)
	}
	// What a killed one has left on an old kernel goes first; it has no owner.
	if err := t.conn.removeLeft(isTrace); err != nil {
		return err
	}
	var err error
	t.owned, err = owned(func(flags uint32) error { return t.add(lowered, flags) })
	there := false
	if errors.Is(err, unix.EPERM) { // so says the kernel of another's table, and of want of privilege
		there, _ = t.conn.hasTrace()
	}
	if there || errors.Is(err, unix.EEXIST) {
		return ErrTraced
	}
	return explain(err, "make a table that says which packets to trace")
}

func (t *Tracer) add(lowered table, flags uint32) error {
	b := &batch{}
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl, lowered.family, text(unix.NFTA_TABLE_NAME, TraceTable),
		number(unix.NFTA_TABLE_FLAGS, flags))
	for i, s := range lowered.sets {
		b.addSet(lowered.family, TraceTable, s, uint32(i+1))
	}
	for _, c := range lowered.chains {
		b.addChain(lowered.family, TraceTable, c)
		for _, r := range c.rules {
			b.addRule(lowered.family, TraceTable, c.name, r)
		}
	}
	lost, err := t.conn.insist(b)
	if lost && errors.Is(err, unix.EEXIST) {
		err = nil
	}
	return err
}

func (t *Tracer) remove() error {
	b := &batch{}
	b.deleteTable(nftables.TableFamilyINet, TraceTable)
	_, err := t.conn.insist(b)
	if errors.Is(err, unix.ENOENT) { // somebody else has
		err = nil
	}
	return explain(err, "remove the table that says which packets to trace")
}

// hasTrace reports whether there is a table of a tracer.
func (conn *Conn) hasTrace() (bool, error) {
	tables, err := conn.tables(nftables.TableFamilyINet)
	return slices.ContainsFunc(tables, func(t tableHead) bool { return t.name == TraceTable }), err
}

func isTrace(name string) bool { return name == TraceTable }

// owned makes a table that the kernel takes away with the socket or, before Linux 5.12, one that it does not.
func owned(create func(flags uint32) error) (bool, error) {
	err := create(tableOwner)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
		return true, err
	}
	return false, create(0)
}

// removeLeft removes the tables of these names that nobody owns: what a tracer or a witness has left that was killed.
func (conn *Conn) removeLeft(is func(name string) bool) error {
	tables, err := conn.tables(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if !is(t.name) || t.flags&tableOwner != 0 {
			continue
		}
		b := &batch{}
		b.deleteTable(t.family, t.name)
		if _, err := conn.insist(b); err != nil && !errors.Is(err, unix.ENOENT) {
			return explain(err, "remove table "+t.name+", which an earlier mesh-init has left")
		}
	}
	return nil
}

func (conn *Conn) words(ctx context.Context) (map[Place]Words, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all := map[Place]Words{}
	err := conn.anyRules(func(in tableName, _ string, r beside.Rule, expressions []byte, _ []string) {
		w := Words{Comment: r.Comment}
		for _, a := range r.Acts {
			w.Does = append(w.Does, string(a))
		}
		if r.Else != "" {
			w.Does = append(w.Does, r.Else)
		}
		if isReject(expressions) {
			w.Does = append(w.Does, Rejects)
		}
		all[Place{Family: uint8(in.family), Table: in.name, Handle: r.Handle}] = w
	})
	return all, explain(err, "list the rules")
}

// isReject reports whether expressions reject, in nft's words or in those of xtables.
func isReject(list []byte) bool {
	for _, e := range nlattr.All(list) {
		var name string
		var data []byte
		for typ, d := range nlattr.All(e) {
			switch typ {
			case unix.NFTA_EXPR_NAME:
				name = zeroTerminated(d)
			case unix.NFTA_EXPR_DATA:
				data = d
			}
		}
		if name == "reject" {
			return true
		}
		for typ, d := range nlattr.All(data) {
			if name == "target" && typ == unix.NFTA_TARGET_NAME && zeroTerminated(d) == "REJECT" {
				return true
			}
		}
	}
	return false
}

package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// ForeignChain is a chain of somebody else's table.
type ForeignChain struct {
	// Family is nft's word for the table's: ip, ip6, inet, …
	Family      string
	Table, Name string
	// Base is true if it has a hook. The rest is of those alone: nft's words
	// for the type and the hook, and the priority.
	Base       bool
	Type, Hook string
	Priority   int32
}

// ForeignChains returns all chains in tables that are not ours. A table has an entry
// without a Name, too.
func (conn *Conn) ForeignChains() ([]ForeignChain, error) {
	tables, err := conn.tables(unix.NFPROTO_UNSPEC)
	if err != nil {
		return nil, err
	}
	var out []ForeignChain
	for _, t := range tables {
		if t.name != Table {
			out = append(out, ForeignChain{Family: familyName(t.family), Table: t.name})
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	hooks := []ruleset.Hook{ruleset.Prerouting, ruleset.Input, ruleset.Forward, ruleset.Output}
	err = conn.chains(unix.NFPROTO_UNSPEC, func(in tableName, c kernelChain) {
		if in.name == Table {
			return
		}
		o := ForeignChain{Family: familyName(in.family), Table: in.name, Name: c.name, Base: c.base, Type: c.typ, Priority: c.priority}
		if c.base && int(c.hook) < len(hooks) {
			o.Hook = hooks[c.hook].String()
		}
		out = append(out, o)
	})
	return out, err
}

func tableFamily(f ruleset.Family) nftables.TableFamily {
	if f == ruleset.IPv4 {
		return nftables.TableFamilyIPv4
	}
	return nftables.TableFamilyIPv6
}

// RemoveEmpty removes those of the named chains of a table that have no rules
// and, if asked to, the table if nothing is left in it. What is not there is
// no failure.
func (conn *Conn) RemoveEmpty(f ruleset.Family, table string, chains []string, andTable bool) error {
	for range maxAttempts {
		generation, err := conn.generation()
		if err != nil {
			return err
		}
		t, err := conn.emptying(f, table, chains, andTable)
		if err != nil || len(t.messages) == 0 {
			return err
		}
		err = conn.commit(&t, generation)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ERESTART) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) {
			return explain(err, "remove what is empty of table "+table)
		}
	}
	return fmt.Errorf("remove what is empty of table %s: the tables changed under %d attempts; another program keeps writing them", table, maxAttempts)
}

func (conn *Conn) emptying(f ruleset.Family, table string, chains []string, andTable bool) (t batch, err error) {
	family := tableFamily(f)
	all, err := conn.ForeignChains()
	if err != nil {
		return t, err
	}
	used := map[string]bool{}
	err = conn.dump(unix.NFT_MSG_GETRULE, family, nil, func(_ nftables.TableFamily, message []byte) error {
		var in, chain string
		for typ, data := range attributes(message) {
			switch typ {
			case unix.NFTA_RULE_TABLE:
				in = zeroTerminated(data)
			case unix.NFTA_RULE_CHAIN:
				chain = zeroTerminated(data)
			}
		}
		if in == table {
			used[chain] = true
		}
		return nil
	})
	if err != nil {
		return t, explain(err, "list rules")
	}
	there, left := false, 0
	for _, c := range all {
		if c.Table != table || c.Family != familyName(family) {
			continue
		}
		there = true
		if c.Name == "" {
			continue
		}
		asked := false
		for _, name := range chains {
			asked = asked || name == c.Name
		}
		if asked && !used[c.Name] {
			t.deleteChain(family, table, c.Name)
		} else {
			left++
		}
	}
	if !andTable || !there || left > 0 {
		return t, nil
	}
	sets, err := conn.sets(family, table)
	if err != nil {
		return t, explain(err, "list sets")
	}
	if len(sets) == 0 {
		t.deleteTable(family, table)
	}
	return t, nil
}

func (b *batch) deleteChain(family nftables.TableFamily, table, chain string) {
	b.add(unix.NFT_MSG_DELCHAIN, 0, family, text(unix.NFTA_CHAIN_TABLE, table), text(unix.NFTA_CHAIN_NAME, chain))
}

// Probe asks the kernel whether it takes the rules of rs, in a transaction that
// ends in an error on purpose, so that nothing of it comes to be. The answer
// is nil, [ruleset.ErrPermission] or [ruleset.ErrUnsupported] with the
// rule that is refused.
func (conn *Conn) Probe(rs ruleset.Ruleset) error {
	lays := []layout{oneTable}
	if conn.only != nil {
		lays = []layout{*conn.only}
	} else if len(rs.Families) == 2 {
		lays = append(lays, twoTables)
	}
	var first error
	for _, lay := range lays {
		prog, err := compile(rs, lay)
		if err != nil {
			return err
		}
		err = conn.probe(prog)
		if err == nil || !errors.Is(err, ruleset.ErrUnsupported) {
			return err
		}
		first = errors.Join(first, err)
	}
	return first
}

func (conn *Conn) probe(prog program) error {
	if _, err := conn.generation(); err != nil {
		return err
	}
	var t batch
	for _, tab := range prog {
		t.addTable(tab, trial, func(*rule) bool { return true })
	}
	t.createTable(prog[0].family, trial)
	err := conn.commit(&t, 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return conn.blame(prog, err)
}

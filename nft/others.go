//go:build linux

package nft

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/nlattr"
	"github.com/mesh-intercept/intercept/ruleset"
)

func tableFamily(f ruleset.Family) nftables.TableFamily {
	if f == ruleset.IPv4 {
		return nftables.TableFamilyIPv4
	}
	return nftables.TableFamilyIPv6
}

func (conn *Conn) countRules(f ruleset.Family, prefix string) (map[string]map[string]int, error) {
	counts := map[string]map[string]int{}
	add := func(table, chain string, n int) {
		if counts[table] == nil {
			counts[table] = map[string]int{}
		}
		counts[table][chain] += n
	}
	isTheirs := func(chain string) bool { return strings.HasPrefix(chain, prefix) }
	err := conn.chains(tableFamily(f), func(in tableName, c kernelChain) {
		if in.name != Table && isTheirs(c.name) {
			add(in.name, c.name, 0)
		}
	})
	if err != nil {
		return nil, err
	}
	err = conn.dump(unix.NFT_MSG_GETRULE, tableFamily(f), nil, func(_ nftables.TableFamily, message []byte) error {
		var table, chain string
		var r beside.Rule
		for typ, data := range nlattr.All(message) {
			switch typ {
			case unix.NFTA_RULE_TABLE:
				table = zeroTerminated(data)
			case unix.NFTA_RULE_CHAIN:
				chain = zeroTerminated(data)
			case unix.NFTA_RULE_EXPRESSIONS:
				if !isTheirs(chain) { // the kernel names the chain first
					readActs(&r, data, f == ruleset.IPv6)
				}
			}
		}
		if table != Table && (isTheirs(chain) || slices.ContainsFunc(r.To, isTheirs)) {
			add(table, chain, 1)
		}
		return nil
	})
	return counts, explain(err, "count the rules of others")
}

func (conn *Conn) removeEmpty(f ruleset.Family, table string, chains []string, andTable bool) error {
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
		if !slices.ContainsFunc([]error{unix.ERESTART, unix.EBUSY, unix.ENOENT, unix.ENOBUFS},
			func(e error) bool { return errors.Is(err, e) }) {
			return explain(err, "remove what is empty of table "+table)
		}
	}
	return fmt.Errorf("remove what is empty of table %s: the tables changed under %d attempts; another program keeps "+
		"writing them", table, maxAttempts)
}

func (conn *Conn) emptying(f ruleset.Family, table string, chains []string, andTable bool) (t batch, err error) {
	family := tableFamily(f)
	all, err := conn.foreignChains()
	if err != nil {
		return t, err
	}
	used := map[string]bool{}
	err = conn.dump(unix.NFT_MSG_GETRULE, family, nil, func(_ nftables.TableFamily, message []byte) error {
		var in, chain string
		for typ, data := range nlattr.All(message) {
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

func (conn *Conn) probe(rs ruleset.Ruleset, lay layout) error {
	prog, err := compile(rs, lay)
	if err != nil {
		return err
	}
	if _, err := conn.generation(); err != nil {
		return err
	}
	if err = conn.try(every, prog...); err != nil {
		return conn.blame(prog, err)
	}
	return nil
}

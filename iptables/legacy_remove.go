package iptables

import (
	"encoding/binary"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/ruleset"
)

// legacyTable is the content of a legacy table, as the kernel has it (struct ipt_getinfo, and entries).
type legacyTable struct {
	family        ruleset.Family
	name          string
	info, entries []byte
}

// Where struct ipt_getinfo has its parts.
const (
	validHooksAt = 32
	hookEntryAt  = 36
	underflowAt  = 56
	numEntriesAt = 76
	tableSizeAt  = 80
)

// without returns the table without what a removal takes out of it. It is the same if that is nothing.
func (t legacyTable) without(r beside.Removal) (out legacyTable, changed bool) {
	family := "ip"
	if t.family == ruleset.IPv6 {
		family = "ip6"
	}
	here := func(c beside.Chain) bool { return c.Legacy && c.Family == family && c.Table == t.name }
	chains, rules := map[string]bool{}, map[uint64]bool{}
	for _, c := range r.Chains {
		chains[c.Name] = here(c) || chains[c.Name]
	}
	for _, rule := range r.Rules {
		rules[rule.Handle] = here(rule.In) || rules[rule.Handle]
	}
	list := readEntries(t.family, t.entries)
	var kept []entry
	moved := map[int]int{} // where an entry is now, or the next one that is kept
	chain, end := "", 0
	for _, e := range list {
		if name, is := e.chainHead(); is {
			chain = name
		} else if e.target == "ERROR" { // which ends the table
			chain = ""
		}
		moved[e.at] = end
		if chains[chain] || rules[handle(e)] {
			changed = true
			continue
		}
		kept = append(kept, e)
		end += e.next - e.at
	}
	if !changed {
		return t, false
	}
	out = legacyTable{family: t.family, name: t.name, info: append([]byte(nil), t.info...)}
	for _, e := range kept {
		at := len(out.entries)
		out.entries = append(out.entries, t.entries[e.at:e.next]...)
		const targetHead = 32 // struct xt_entry_target
		verdict := at + len(e.head) + len(e.matches) + targetHead
		if e.target != "" || len(e.info) < 4 { // the standard target has no name
			continue
		}
		if to := int32(binary.NativeEndian.Uint32(e.info)); to >= 0 {
			binary.NativeEndian.PutUint32(out.entries[verdict:], uint32(moved[int(to)]))
		}
	}
	const hooks = 5
	for i := range hooks {
		for _, part := range []int{hookEntryAt + 4*i, underflowAt + 4*i} {
			if binary.NativeEndian.Uint32(t.info[validHooksAt:])&(1<<i) != 0 {
				was := binary.NativeEndian.Uint32(t.info[part:])
				binary.NativeEndian.PutUint32(out.info[part:], uint32(moved[int(was)]))
			}
		}
	}
	binary.NativeEndian.PutUint32(out.info[numEntriesAt:], uint32(len(kept)))
	binary.NativeEndian.PutUint32(out.info[tableSizeAt:], uint32(len(out.entries)))
	return out, true
}

// handle tells the entries of a table apart, as [beside.Rule.Handle].
func handle(e entry) uint64 { return uint64(e.at) + 1 }

// RemoveLegacy takes what plan chooses out of the legacy tables of the calling thread's namespace, without a program. It
// returns what puts it back, with what was counted until then. Who writes with iptables-legacy at the same time can lose
// what it writes: its lock is not taken.
func RemoveLegacy(plan func([]beside.Chain) (beside.Removal, error)) (undo func() error, err error) {
	var tables []legacyTable
	var all []beside.Chain
	for _, f := range families() {
		err := legacyContents(f, func(name string, info, entries []byte) bool {
			tables = append(tables, legacyTable{f, name, info, entries})
			all = append(all, legacyChains(f, name, info, entries)...)
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	r, err := plan(all)
	if err != nil {
		return nil, err
	}
	type change struct{ before, after legacyTable }
	var done []change
	undo = func() error {
		for _, c := range done {
			if err := c.after.replaceBy(c.before); err != nil {
				return err
			}
		}
		return nil
	}
	for _, t := range tables {
		after, changed := t.without(r)
		if !changed {
			continue
		}
		if err := t.replaceBy(after); err != nil {
			if left := undo(); left != nil {
				return nil, left
			}
			return nil, err
		}
		done = append(done, change{t, after})
	}
	return undo, nil
}

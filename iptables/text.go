package iptables

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Dialect is how much of xtables rules are written in.
type Dialect string

const (
	// Standard uses the comment and multiport matches.
	Standard Dialect = "standard"
	// Minimal does without them: one value a rule, no comments, and at most 8 KiB a table. It is for small kernels and
	// gVisor.
	Minimal Dialect = "minimal"
)

// Input is what one iptables-restore or ip6tables-restore reads, with the flag --noflush.
type Input struct {
	Family ruleset.Family
	Text   string
}

// Program is the name of the program that reads it.
func (i Input) Program() string { return restoreName(i.Family) }

// String is the text, with a first line that names the program which reads it.
func (i Input) String() string {
	return fmt.Sprintf("# %s: %s --noflush, in a namespace that has none of these rules\n%s", i.Family, i.Program(), i.Text)
}

func restoreName(f ruleset.Family) string {
	if f == ruleset.IPv6 {
		return "ip6tables-restore"
	}
	return "iptables-restore"
}

// Render returns the rules of rs as text for iptables-restore and ip6tables-restore, as they are written into a
// namespace that has none of ours. It does no I/O. Where not every user ID is mapped, the kernel takes no more than the
// rules that a [Runner] writes.
func Render(rs ruleset.Ruleset, o Options) ([]Input, error) {
	var inputs []Input
	for _, f := range rs.Families {
		p, err := compile(rs, f, o, everyone())
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, Input{f, transition(nil, p, o)})
	}
	return inputs, nil
}

// everyone is whom rules are for where no user namespace is known.
func everyone() ruleset.IDs { return ruleset.IDs{{First: 0, Last: ruleset.MaxID}} }

// write appends the table's chains and rules, and its jumps if asked for.
func (t table) write(b *strings.Builder, jumps bool) {
	b.WriteString("*" + t.name + "\n")
	for _, c := range t.chains {
		b.WriteString(":" + c.name + " - [0:0]\n")
	}
	for _, c := range t.chains {
		for _, r := range c.rules {
			b.WriteString("-A " + c.name)
			r.write(b)
		}
	}
	if jumps {
		for _, j := range t.jumps {
			b.WriteString("-A " + j.builtin)
			j.rule().write(b)
		}
	}
	b.WriteString("COMMIT\n")
}

func (j jump) rule() rule { return rule{words: []string{"-j", j.chain}, comment: j.comment} }

// write appends a rule, in the order in which iptables-save does: conditions, comment, target.
func (r rule) write(b *strings.Builder) {
	at := slices.IndexFunc(r.words, func(w string) bool { return w == "-j" || w == "-g" })
	for i, w := range r.words {
		if i == at && r.comment != "" {
			b.WriteString(" -m comment --comment " + quote(r.comment))
		}
		b.WriteString(" " + w)
	}
	b.WriteByte('\n')
}

// quote writes a word as iptables-restore reads it.
func quote(s string) string {
	return `"` + escape.Replace(s) + `"`
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// transition returns the input that makes of what is there what p says, a transaction for each table that differs. It
// touches our chains, the jumps to them, and nothing else. Nothing to do is the empty text.
func transition(have listing, p program, o Options) string {
	var b strings.Builder
	names := order(have.captures(), p.captures())
	if len(p.tables) == 0 {
		slices.Reverse(names) // nothing is redirected any more before its zones go
	}
	for _, name := range names {
		want := p.table(name)
		b.WriteString(have.table(name).transition(want, o))
	}
	return b.String()
}

// order returns the tables in the order in which they are written. Table mangle begins to give clients to the proxy
// before table nat no longer redirects them, and ends it after nat redirects them: in between both do, and clients are
// refused. With neither they would reach the app.
func order(captured, captures bool) []string {
	if captured && !captures {
		return []string{"raw", "nat", "filter", "mangle"}
	}
	return tableNames()
}

// transition returns the transaction for one table.
func (have savedTable) transition(want table, o Options) string {
	if have.holds(want, o) {
		return ""
	}
	var b strings.Builder
	line := func(words ...string) { b.WriteString(strings.Join(words, " ") + "\n") }
	line("*" + want.name)
	var obsolete []string
	for _, c := range have.ours() {
		if !want.has(c.name) && !strings.HasPrefix(c.name, madePrefix) {
			obsolete = append(obsolete, c.name)
		}
	}
	for _, c := range want.chains {
		line(":"+c.name, "- [0:0]") // made, or emptied
	}
	if len(want.chains) == 0 && o.Objects == nil { // else they go with what they speak of
		for _, c := range have.ours() {
			if strings.HasPrefix(c.name, madePrefix) {
				obsolete = append(obsolete, c.name)
			}
		}
	}
	for _, name := range obsolete {
		line(":"+name, "- [0:0]")
	}
	for _, c := range have.chains {
		if c.builtin && !have.jumpsRight(want, c, o) {
			for _, r := range c.rules {
				if r.isJump() {
					line("-D", c.name, r.spec)
				}
			}
		}
	}
	for _, c := range want.chains {
		for _, r := range c.rules {
			b.WriteString("-A " + c.name)
			r.write(&b)
		}
	}
	for _, j := range want.jumps {
		if have.jumpsRight(want, have.chain(j.builtin), o) {
			continue
		}
		where := "-I " + j.builtin + " 1"
		if o.Jumps.last(j.builtin) {
			where = "-A " + j.builtin
		}
		b.WriteString(where)
		j.rule().write(&b)
	}
	for _, name := range obsolete {
		line("-X", name)
	}
	line("COMMIT")
	return b.String()
}

// restoration returns the input that puts our chains, rules, counters and jumps back to what was there before, after an
// attempt to write something else. ip6tables-nft-restore (1.8.9) takes no counters: those begin anew.
func restoration(before, now listing, o Options) string {
	var b strings.Builder
	for _, name := range order(now.captures(), before.captures()) {
		old, cur := before.table(name), now.table(name)
		if old.sameOurs(cur) {
			continue
		}
		line := func(words ...string) { b.WriteString(strings.Join(words, " ") + "\n") }
		line("*" + name)
		var obsolete []string
		for _, c := range old.ours() {
			line(":"+c.name, "- [0:0]")
		}
		for _, c := range cur.ours() {
			if o.Objects != nil && strings.HasPrefix(c.name, madePrefix) {
				continue
			}
			if !old.has(c.name) {
				line(":"+c.name, "- [0:0]")
				obsolete = append(obsolete, c.name)
			}
		}
		for _, c := range cur.chains {
			for _, r := range c.rules {
				if c.builtin && r.isJump() {
					line("-D", c.name, r.spec)
				}
			}
		}
		for _, c := range old.ours() {
			for _, r := range c.rules {
				line(r.counters(), "-A", c.name, r.spec)
			}
		}
		for _, c := range old.chains {
			for i, r := range c.rules {
				if c.builtin && r.isJump() {
					line(r.counters(), "-I", c.name, strconv.Itoa(i+1), r.spec)
				}
			}
		}
		for _, name := range obsolete {
			line("-X", name)
		}
		line("COMMIT")
	}
	return b.String()
}

// captures reports whether table mangle gives clients to the proxy: mode tproxy.
func (l listing) captures() bool {
	return slices.ContainsFunc(l.table("mangle").ours(), func(c savedChain) bool {
		return slices.ContainsFunc(c.rules, func(r savedRule) bool { return strings.Contains(r.spec, "-j TPROXY ") })
	})
}

// captures reports whether table mangle is to.
func (p program) captures() bool {
	return slices.ContainsFunc(p.table("mangle").chains, func(c chain) bool {
		return slices.ContainsFunc(c.rules, func(r rule) bool { return slices.Contains(r.words, "TPROXY") })
	})
}

func (r savedRule) counters() string { return fmt.Sprintf("[%d:%d]", r.packets, r.bytes) }

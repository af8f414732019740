package nft

import (
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept/nft/internal/expr"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Render returns the Ruleset as nft(8) text that replaces what is there: the same table that Apply makes, for people and
// for `nft -f`. It does so on every system.
func Render(rs ruleset.Ruleset) (string, error) {
	prog, err := lower(rs, oneTable)
	if err != nil {
		return "", err
	}
	return prog.render(), nil
}

func (p program) render() string {
	var b strings.Builder
	for _, t := range p {
		// Deleting a table that is not there is an error, adding one that is
		// there is not. All of a file is one transaction.
		name := familyName(t.family) + " " + Table
		fmt.Fprintf(&b, "add table %s\ndelete table %s\n%s", name, name, t.render())
	}
	return b.String()
}

func (t table) render() string {
	var b strings.Builder
	b.Grow(16 << 10)
	fmt.Fprintf(&b, "table %s %s {\n", familyName(t.family), Table)
	if t.spec != "" {
		fmt.Fprintf(&b, "\tchain %s {\n\t}\n\n", t.spec)
	}
	for _, s := range t.sets {
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n", s.name, s.key)
		if s.key.isInterval() {
			b.WriteString("\t\tflags interval\n")
		}
		if s.key == keySettling {
			b.WriteString("\t\tflags timeout\n")
		}
		if s.ranges.len() > 0 { // nft(8) reads no empty list
			b.WriteString("\t\telements = { ")
			for i := range s.ranges.len() {
				if i > 0 {
					b.WriteString(", ")
				}
				b.WriteString(s.key.text(s.ranges.at(i)))
				if s.timeout > 0 {
					fmt.Fprintf(&b, " timeout %dms", s.timeout.Milliseconds())
				}
			}
			b.WriteString(" }\n")
		}
		b.WriteString("\t}\n\n")
	}
	for i, c := range t.chains {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "\tchain %s {\n", c.name)
		if c.isBase() {
			fmt.Fprintf(&b, "\t\ttype %s hook %s priority %d; policy accept;\n", c.typ, c.hook, c.priority)
		}
		for _, r := range c.rules {
			b.WriteString("\t\t")
			for _, s := range r.stmts {
				b.WriteString(s.text)
				b.WriteByte(' ')
			}
			fmt.Fprintf(&b, "comment %q\n", r.comment)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func familyName(f expr.TableFamily) string {
	switch f {
	case expr.TableFamilyINet:
		return "inet"
	case expr.TableFamilyIPv4:
		return "ip"
	case expr.TableFamilyIPv6:
		return "ip6"
	case expr.TableFamilyNetdev:
		return "netdev"
	default:
		return fmt.Sprintf("family(%d)", f)
	}
}

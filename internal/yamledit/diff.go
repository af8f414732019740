package yamledit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// pair is an item of the old list and the one that it becomes; -1: none.
type pair struct{ old, fresh int }

// maxCompared bounds how many pairs of items are compared.
const maxCompared = 1 << 20

// align finds out which items of two resolved lists are the same one.
func align(a, b []*yaml.Node) []pair {
	var front, back []pair
	from, ends := 0, [2]int{len(a), len(b)}
	for from < ends[0] && from < ends[1] && same(a[from], b[from]) {
		front = append(front, pair{from, from})
		from++
	}
	for ends[0] > from && ends[1] > from && same(a[ends[0]-1], b[ends[1]-1]) {
		ends[0]--
		ends[1]--
		back = append(back, pair{ends[0], ends[1]})
	}
	slices.Reverse(back)
	a, b = a[from:ends[0]], b[from:ends[1]]
	if len(a) == 1 && len(b) == 1 && nameOf(a[0]) == "" { // the one that is left
		return append(append(front, pair{from, from}), back...)
	}

	// The longest common subsequence, of what is left: most[i][j] is its length in a[i:] and b[j:].
	most := make([][]int, len(a)+1)
	if len(a)*len(b) <= maxCompared {
		for i := range most {
			most[i] = make([]int, len(b)+1)
		}
		for i, x := range slices.Backward(a) {
			for j, y := range slices.Backward(b) {
				if most[i][j] = max(most[i+1][j], most[i][j+1]); same(x, y) {
					most[i][j] = most[i+1][j+1] + 1
				}
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && most[0] != nil && same(a[i], b[j]):
			front = append(front, pair{from + i, from + j})
			i++
			j++
		case i < len(a) && (j == len(b) || most[0] == nil || most[i+1][j] >= most[i][j+1]):
			front = append(front, pair{from + i, -1})
			i++
		default:
			front = append(front, pair{-1, from + j})
			j++
		}
	}
	return append(front, back...)
}

// same reports whether one item of a list has become another: they have one name, as
// containers, volumes and objects do, or are equal.
func same(a, b *yaml.Node) bool {
	if name := nameOf(a); name != "" {
		return name == nameOf(b)
	}
	return yamldoc.Equal(a, b)
}

func nameOf(n *yaml.Node) string {
	if name := yamldoc.Text(yamldoc.Get(n, "name")); name != "" {
		return name
	}
	if name := yamldoc.Text(yamldoc.Get(n, "metadata", "name")); name != "" {
		return name + " " + yamldoc.Text(yamldoc.Get(n, "kind"))
	}
	return ""
}

// Operation is one of a JSON patch (RFC 6902).
type Operation struct {
	Op    string          `json:"op"`
	Path  string          `json:"path"`
	Value json.RawMessage `json:"value,omitempty"`
}

// Patch returns the operations that make one resolved node of another.
func Patch(before, after *yaml.Node) ([]Operation, error) {
	var p patcher
	p.value("", before, after)
	return p.ops, p.err
}

type patcher struct {
	ops []Operation
	err error
}

func (p *patcher) add(op, path string, value *yaml.Node) {
	o := Operation{Op: op, Path: path}
	if value != nil {
		out, err := yamldoc.JSON(value)
		if err != nil && p.err == nil {
			p.err = err
		}
		o.Value = out
	}
	p.ops = append(p.ops, o)
}

func (p *patcher) value(path string, a, b *yaml.Node) {
	switch {
	case yamldoc.Equal(a, b):
	case a.Kind == yaml.MappingNode && b.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(a.Content); i += 2 {
			key := a.Content[i].Value
			if v := yamldoc.Get(b, key); v != nil {
				p.value(path+"/"+escape(key), a.Content[i+1], v)
			} else {
				p.add("remove", path+"/"+escape(key), nil)
			}
		}
		for i := 0; i+1 < len(b.Content); i += 2 {
			if key := b.Content[i].Value; yamldoc.Get(a, key) == nil {
				p.add("add", path+"/"+escape(key), b.Content[i+1])
			}
		}
	case a.Kind == yaml.SequenceNode && b.Kind == yaml.SequenceNode:
		at := 0
		for _, pair := range align(a.Content, b.Content) {
			here := path + "/" + strconv.Itoa(at)
			switch {
			case pair.fresh < 0:
				p.add("remove", here, nil)
				continue
			case pair.old < 0:
				p.add("add", here, b.Content[pair.fresh])
			default:
				p.value(here, a.Content[pair.old], b.Content[pair.fresh])
			}
			at++
		}
	default:
		p.add("replace", path, b)
	}
}

// escape writes a key in a JSON pointer (RFC 6901).
func escape(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "~", "~0"), "/", "~1")
}

// context is how many lines a diff shows around a change.
const context = 3

// Unified returns edits as a unified diff, as diff -u writes it.
func Unified(name string, text []byte, edits []Edit) string {
	lines, _ := split(text)
	all := slices.Collect(walk(lines, edits))
	var out strings.Builder
	for from, old, fresh := 0, 1, 1; ; {
		// The next hunk: from is where it begins, old and fresh are the lines there.
		first := from
		for first < len(all) && all[first].op == ' ' {
			first++
		}
		if first == len(all) {
			return out.String()
		}
		skip := max(0, first-context-from)
		from, old, fresh = from+skip, old+skip, fresh+skip
		end, last := first, first
		for end < len(all) && end-last <= 2*context {
			if all[end].op != ' ' {
				last = end
			}
			end++
		}
		end = min(last+context+1, len(all))
		var olds, freshes int
		var body strings.Builder
		for _, l := range all[from:end] {
			if l.op != '+' {
				olds++
			}
			if l.op != '-' {
				freshes++
			}
			body.WriteString(string(l.op) + l.text + "\n")
		}
		if out.Len() == 0 {
			fmt.Fprintf(&out, "--- %s\n+++ %s\n", name, name)
		}
		fmt.Fprintf(&out, "@@ -%s +%s @@\n%s", span(old, olds), span(fresh, freshes), &body)
		from, old, fresh = end, old+olds, fresh+freshes
	}
}

func span(first, count int) string {
	if count == 0 {
		first--
	}
	return strconv.Itoa(first) + "," + strconv.Itoa(count)
}

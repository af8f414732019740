package yamldoc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"sort"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// ParseLong is [Parse] for who reads [strict.Node.Long].
//
// The library makes a node of 160 bytes of each item of a list, and more on the way. So the items of a long list that
// are plain are not shown to it, but for the first and the last. If it takes these for neighbours in a list, then those
// between them are items of that list, too; else it is shown the whole document.
func ParseLong(data []byte) (strict.Node, error) {
	if json.Valid(data) {
		n, err := strict.ParseLongJSON(data)
		if err == nil && n.Kind == strict.Null {
			err = ErrEmpty
		}
		return n, err
	}
	if n, err := parseShort(data); err == nil {
		return n, nil
	}
	return Parse(data)
}

// errNotShort says that a document has to be read whole.
var errNotShort = errors.New("its long lists cannot be left out")

func parseShort(data []byte) (strict.Node, error) {
	text, cuts := shorten(data)
	if len(cuts) == 0 {
		return strict.Node{}, errNotShort
	}
	if err := bounded(data); err != nil {
		return strict.Node{}, err
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	root, err := decode(d)
	if err != nil {
		return strict.Node{}, err
	}
	if _, err := decode(d); !errors.Is(err, io.EOF) {
		return strict.Node{}, errNotShort
	}
	c := converter{cuts: cuts}
	n, err := c.node("", root, strict.MaxDepth)
	if err == nil && c.mended != len(cuts) {
		err = errNotShort
	}
	return n, errors.Join(err, c.errs.Err())
}

// A cut is what has been left out of a list: what stands between two of its items.
type cut struct {
	from, to int // in the document, and
	comma    bool
	place    place // of the item before it in the text that is left
	items    iter.Seq[strict.Node]
}

// place is where a node is in a text, as the library counts.
type place struct{ line, column int }

// shorten leaves long lists out of a document, but for the ends of lines in them.
func shorten(data []byte) (text []byte, cuts []cut) {
	type found struct {
		cut
		first int
		items func(line int) iter.Seq[strict.Node]
	}
	var all []found
	for _, f := range strict.Flats(data) {
		all = append(all, found{cut{from: f.Second, to: f.Last, comma: true}, f.First, f.Items})
	}
	for _, r := range runs(data) {
		all = append(all, found{cut{from: r.second, to: r.last}, r.first, r.items(data)})
	}
	sort.Slice(all, func(i, j int) bool { return all[i].first < all[j].first })
	at, line := 0, 1
	for _, f := range all {
		if f.first < at {
			continue // one inside of the other is no list
		}
		text = append(text, data[at:f.first]...)
		line += bytes.Count(data[at:f.first], []byte{'\n'})
		begin := bytes.LastIndexByte(text, '\n') + 1
		f.place = place{line, 1 + utf8.RuneCount(text[begin:])}
		text = append(text, data[f.first:f.from]...)
		f.cut.items = f.items(line)
		if f.comma {
			text = append(text, ',')
		}
		text = append(text, bytes.Repeat([]byte{'\n'}, bytes.Count(data[f.from:f.to], []byte{'\n'}))...)
		line += bytes.Count(data[f.first:f.to], []byte{'\n'})
		at = f.to
		cuts = append(cuts, f.cut)
	}
	return append(text, data[at:]...), cuts
}

// A run is a part of a block list: lines that have nothing but a dash, a plain item each and a comment.
type run struct {
	first, second, last int // where the first item begins, the second line, and the last one
	count               int
}

// minRun is how many lines are worth it.
const minRun = 64

func runs(data []byte) (all []run) {
	var r run
	indent := -1 // of the lines of r
	end := func() {
		if r.count >= minRun {
			all = append(all, r)
		}
		r, indent = run{}, -1
	}
	for at := 0; at < len(data); {
		size := bytes.IndexByte(data[at:], '\n') + 1
		if size == 0 {
			size = len(data) - at
		}
		spaces, item, ok := plainItem(data[at : at+size])
		if !ok || spaces != indent {
			end()
		}
		if ok {
			switch r.count {
			case 0:
				r.first, indent = at+item, spaces
			case 1:
				r.second = at
			}
			r.last = at
			r.count++
		}
		at += size
	}
	end()
	return all
}

// plainItem returns how far a line is indented that is a plain item of a list, and where the item begins.
func plainItem(line []byte) (spaces, item int, ok bool) {
	for spaces < len(line) && line[spaces] == ' ' {
		spaces++
	}
	item = spaces + 2
	if item >= len(line) || line[spaces] != '-' || line[spaces+1] != ' ' {
		return 0, 0, false
	}
	for item < len(line) && line[item] == ' ' {
		item++
	}
	text, _ := plain(line[item:])
	return spaces, item, len(text) > 0
}

// plain returns the item that a line begins with, and whether it has quotes; none, if it is not one that every reader
// takes for the same text, or number of digits.
func plain[T string | []byte](line T) (item T, quoted bool) {
	var none T
	at, digit := 0, false
	if len(line) > 0 && (line[0] == '"' || line[0] == '\'') {
		at, quoted = 1, true
	}
	begin := at
	for ; at < len(line); at++ {
		c := line[at]
		isDigit, isLetter := '0' <= c && c <= '9', 'a' <= c|0x20 && c|0x20 <= 'z'
		if !isDigit && !isLetter && (at == begin || strings.IndexByte("./:-_", c) < 0) {
			break
		}
		digit = digit || isDigit
	}
	item = line[begin:at]
	if !digit || item[len(item)-1] == ':' || quoted && (at == len(line) || line[at] != line[0]) {
		return none, false
	}
	if quoted {
		at++
	}
	// Behind it there can be a comment.
	comment := false
	for space := false; at < len(line); at++ {
		c := line[at]
		if comment = comment || c == '#' && space; c > '~' || c < ' ' && c != '\n' || c != ' ' && c != '\n' && !comment {
			return none, false
		}
		space = c == ' '
	}
	return item, quoted
}

// items returns those between the first and the last, by the line of the first.
func (r run) items(data []byte) func(line int) iter.Seq[strict.Node] {
	return func(first int) iter.Seq[strict.Node] {
		text := string(data[r.second:r.last])
		return func(yield func(strict.Node) bool) {
			line := first
			for one := range strings.Lines(text) {
				line++
				item, quoted := plain(strings.TrimLeft(strings.TrimLeft(one, " ")[1:], " "))
				if !yield(strict.Node{Kind: strict.Scalar, Text: item, Bare: !quoted, Line: line}) {
					return
				}
			}
		}
	}
}

// mend puts what was left out of a list back into it. n has what is left.
func (c *converter) mend(y *yaml.Node, n strict.Node) strict.Node {
	var in map[int]cut // by the item that stands before it
	for i := range y.Content {
		if len(c.cuts) == c.mended {
			break
		}
		// They come in the order of the document, for an alias ends where it begins.
		next := c.cuts[c.mended]
		item := y.Content[i]
		if item.Kind != yaml.ScalarNode || (place{item.Line, item.Column}) != next.place || i+1 == len(y.Content) {
			continue
		}
		if in == nil {
			in = map[int]cut{}
		}
		in[i] = next
		c.mended++
	}
	if in == nil {
		return n
	}
	left := n.Items
	n.Items, n.Long = nil, func(yield func(strict.Node) bool) {
		for i, item := range left {
			if !yield(item) {
				return
			}
			if between, is := in[i]; is {
				for item := range between.items {
					if !yield(item) {
						return
					}
				}
			}
		}
	}
	return n
}

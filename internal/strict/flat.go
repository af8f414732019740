package strict

import (
	"io"
	"iter"
	"strings"
)

// flat is a long array of JSON of which every value is a string without escapes, in ASCII, or a number of digits. Its
// items need no parser: one that takes a token at a time takes as long for them as all else does.
type flat struct{ begin, end, count int } // with its brackets

// A Flat is such an array in YAML, where a comma may stand before its end.
type Flat struct {
	// Second and Last are where what follows the first item begins, its comma, and where the last item does.
	Second, Last int
	// First is where the first item begins.
	First int
	// Items yields those between the first and the last, on their lines; the first is on line.
	Items func(line int) iter.Seq[Node]
}

// Flats returns those of a text in which the double quotes of strings are in pairs. It may be no array there.
func Flats(data []byte) (all []Flat) {
	for _, f := range flats(data, true) {
		var first, second, last int
		values(data[f.begin:f.end], true, func(begin, end int) bool {
			if first == 0 {
				first, second = begin, end
			}
			last = begin
			return true
		})
		between := flat{begin: f.begin + second, end: f.begin + last}
		all = append(all, Flat{First: f.begin + first, Second: between.begin, Last: between.end,
			Items: func(line int) iter.Seq[Node] { return between.items(data, line) }})
	}
	return all
}

// minFlat is how many values are worth it.
const minFlat = 64

// flats returns those of a document, which may be malformed: what is found before the first mistake is there.
func flats(data []byte, comma bool) (all []flat) {
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			for i++; i < len(data) && data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case '[':
			f := flat{begin: i}
			end := values(data[i:], comma, func(int, int) bool { f.count++; return true })
			if f.end = i + end; end > 0 && f.count >= minFlat {
				all = append(all, f)
				i = f.end - 1
			}
		}
	}
	return all
}

// values tells where the values of a flat array begin and end, as long as it is asked to, and returns where the array
// ends; 0: it is none. comma: one may stand before its end.
func values[T string | []byte](data T, comma bool, value func(begin, end int) bool) (end int) {
	space := func(i int) int {
		for i < len(data) && (data[i] == ' ' || data[i] == '\t' || data[i] == '\n' || data[i] == '\r') {
			i++
		}
		return i
	}
	for i := space(1); ; i = space(i + 1) {
		begin := i
		if i = simple(data, i); i == begin {
			if comma && i < len(data) && data[i] == ']' && data[i-1] != '[' {
				return i + 1
			}
			return 0
		}
		if !value(begin, i) {
			return 0
		}
		if i = space(i); i == len(data) {
			return 0
		}
		switch data[i] {
		case ']':
			return i + 1
		case ',':
		default:
			return 0
		}
	}
}

// simple returns where a simple value at a place ends; the place itself: it is none.
func simple[T string | []byte](data T, begin int) (end int) {
	if begin == len(data) {
		return begin
	}
	switch c := data[begin]; {
	case c == '"':
		for i := begin + 1; i < len(data); i++ {
			switch c := data[i]; {
			case c == '"':
				return i + 1
			case c < ' ', c > '~', c == '\\':
				return begin
			}
		}
	case '1' <= c && c <= '9':
		for end = begin + 1; end < len(data) && '0' <= data[end] && data[end] <= '9'; end++ {
		}
		return end
	}
	return begin
}

// items yields those of a flat array that begins on a line; 0: lines have no numbers.
func (f flat) items(data []byte, line int) iter.Seq[Node] {
	text := string(data[f.begin:f.end])
	return func(yield func(Node) bool) {
		line, seen := line, 0
		values(text, true, func(begin, end int) bool {
			if line > 0 {
				line += strings.Count(text[seen:begin], "\n")
				seen = begin
			}
			n := Node{Kind: Scalar, Text: text[begin:end], Line: line, Bare: true}
			if n.Text[0] == '"' {
				n.Text, n.Bare = n.Text[1:len(n.Text)-1], false
			}
			return yield(n)
		})
	}
}

// withoutFlats reads a document in which the flat arrays are empty, and as long as they are.
type withoutFlats struct {
	data  []byte
	flats []flat
	at    int
}

// Read implements [io.Reader].
func (r *withoutFlats) Read(p []byte) (int, error) {
	if r.at == len(r.data) {
		return 0, io.EOF
	}
	n := copy(p, r.data[r.at:])
	for len(r.flats) > 0 && r.flats[0].begin < r.at+n {
		f := r.flats[0]
		for i := max(f.begin+1, r.at); i < min(f.end-1, r.at+n); i++ {
			p[i-r.at] = ' '
		}
		if f.end > r.at+n {
			break
		}
		r.flats = r.flats[1:]
	}
	r.at += n
	return n, nil
}

// Package conflist puts an entry of ours into a node's CNI configuration and
// takes it out again.
//
// What becomes of the directory's files is decided by functions of their
// bytes, [Install] and [Uninstall], which return the steps. [Dir] takes the
// steps. After each of them, and however the process ends, there is a
// configuration with which every pod can start.
//
// Other people's entries and fields are not decoded and written anew: their
// bytes, order and spacing stay as they are.
package conflist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Entry is one plugin's entry of a list.
type Entry struct {
	// Type is the plugin's: every entry of a list with this type is ours.
	Type string
	// JSON is the entry, an object with that type.
	JSON []byte
	// Versions are those of the CNI specification that the plugin speaks. A
	// list of another version is left alone: with the entry in it, no pod of
	// the node would start any more.
	Versions []string
}

// ErrInvalid reports a file that is no configuration a runtime could use.
var ErrInvalid = errors.New("not a CNI configuration")

// span is where a value stands in a text.
type span struct{ from, to int }

func (s span) of(b []byte) []byte { return b[s.from:s.to] }

// member is one member of an object.
type member struct {
	key   string
	value span
}

// list is a configuration list as far as it matters here.
type list struct {
	data     []byte
	versions []string
	plugins  []span
	array    span // of the plugins, with its brackets
}

// parseList finds a list's plugins. It reads what libcni reads: exact keys, of
// which the last holds.
func parseList(data []byte) (list, error) {
	all, err := object(data)
	if err != nil {
		return list{}, err
	}
	l := list{data: data, versions: versions(data, all)}
	array, ok := find(all, "plugins")
	if !ok || data[array.from] != '[' {
		return list{}, fmt.Errorf(`%w: it has no list "plugins"`, ErrInvalid)
	}
	l.array = array
	l.plugins = elements(data, array.from)
	for i, p := range l.plugins {
		if data[p.from] != '{' {
			return list{}, fmt.Errorf("%w: plugins[%d], %s, is no object", ErrInvalid, i, clip(p.of(data)))
		}
	}
	if len(l.plugins) == 0 {
		return list{}, fmt.Errorf(`%w: its list "plugins" is empty`, ErrInvalid)
	}
	return l, nil
}

// object returns the members of a text that is one JSON object.
func object(data []byte) ([]member, error) {
	trimmed := bytes.TrimSpace(data)
	switch {
	case len(trimmed) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrInvalid)
	case !json.Valid(data):
		var any json.RawMessage
		return nil, fmt.Errorf("%w: no JSON: %w", ErrInvalid, json.Unmarshal(data, &any))
	case trimmed[0] != '{':
		return nil, fmt.Errorf("%w: %s is no JSON object", ErrInvalid, clip(trimmed))
	}
	return members(data, skipSpace(data, 0)), nil
}

// versions are those that a configuration names. libcni takes the highest of
// them that it knows.
func versions(data []byte, all []member) []string {
	var named []string
	if s, ok := find(all, "cniVersions"); ok {
		var more []string
		if json.Unmarshal(s.of(data), &more) == nil {
			named = append(named, more...)
		}
	}
	if one := text(data, all, "cniVersion"); one != "" {
		named = append(named, one)
	}
	return named
}

// text is a member that is a string, or "".
func text(data []byte, all []member, key string) string {
	var s string
	if v, ok := find(all, key); ok && json.Unmarshal(v.of(data), &s) != nil {
		return ""
	}
	return s
}

// ours are the indexes of the entries of a type.
func (l list) ours(pluginType string) []int {
	var found []int
	for i, p := range l.plugins {
		if text(l.data, members(l.data, p.from), "type") == pluginType {
			found = append(found, i)
		}
	}
	return found
}

// Types returns the types of a list's plugins, or of the one plugin.
func Types(data []byte) []string {
	if l, err := parseList(data); err == nil {
		types := make([]string, len(l.plugins))
		for i, p := range l.plugins {
			types[i] = text(data, members(data, p.from), "type")
		}
		return types
	}
	if all, err := object(data); err == nil {
		return []string{text(data, all, "type")}
	}
	return nil
}

// speaks reports why a plugin cannot be part of a list of these versions.
func (e Entry) speaks(named []string) error {
	for _, v := range named {
		if slices.Contains(e.Versions, v) {
			return nil
		}
	}
	what := "names no cniVersion, which means 0.1.0"
	if len(named) > 0 {
		what = fmt.Sprintf("is of cniVersion %s", strings.Join(named, ", "))
	}
	return fmt.Errorf("it %s, and %s speaks %s: with its entry no pod would start; have the file's owner write one of "+
		"these", what, e.Type, strings.Join(e.Versions, ", "))
}

// Insert returns a list with the entry as its last, and with no other of its
// type. If that is so already, the very same bytes are returned: entries are
// compared whole, by what they mean.
func Insert(data []byte, e Entry) ([]byte, error) {
	l, err := parseList(data)
	if err != nil {
		return nil, err
	}
	if err := e.speaks(l.versions); err != nil {
		return nil, err
	}
	found := l.ours(e.Type)
	if len(found) == 1 && found[0] == len(l.plugins)-1 && Equal(l.plugins[found[0]].of(data), e.JSON) {
		return data, nil
	}
	if len(found) == len(l.plugins) {
		return nil, fmt.Errorf("%w: %s is its only plugin, and nothing would give pods a network", ErrInvalid, e.Type)
	}
	rest, err := Remove(data, e.Type)
	if err != nil {
		return nil, err
	}
	if l, err = parseList(rest); err != nil {
		return nil, err
	}
	last := l.plugins[len(l.plugins)-1]
	space := rest[last.from-spaceBefore(rest, last.from) : last.from]
	return slices.Concat(rest[:last.to], []byte(","), space, layout(e.JSON, rest, last, space), rest[last.to:]), nil
}

// Remove returns a list without the entries of a type: the same bytes, if
// there are none. What [Insert] has put in leaves no trace.
func Remove(data []byte, pluginType string) ([]byte, error) {
	l, err := parseList(data)
	if err != nil {
		return nil, err
	}
	found := l.ours(pluginType)
	if len(found) == len(l.plugins) {
		inside := span{l.array.from + 1, l.array.to - 1}
		return slices.Concat(data[:inside.from], data[inside.to:]), nil
	}
	// A comma goes with each: the one before, if an entry is left before it.
	leading := 0
	for leading < len(found) && found[leading] == leading {
		leading++
	}
	out := slices.Clone(data)
	for _, i := range slices.Backward(found[leading:]) {
		out = slices.Delete(out, l.plugins[i-1].to, l.plugins[i].to)
	}
	if leading > 0 {
		out = slices.Delete(out, l.plugins[0].from, l.plugins[leading].from)
	}
	return out, nil
}

// Wrap returns the list that stands for a configuration of one plugin, as
// libcni would make it (ConfListFromConf), with the plugin's bytes as they are.
func Wrap(data []byte) ([]byte, error) {
	all, err := object(data)
	if err != nil {
		return nil, err
	}
	if text(data, all, "type") == "" {
		hint := ""
		if _, ok := find(all, "plugins"); ok {
			hint = "; a list belongs into a file whose name ends in .conflist"
		}
		return nil, fmt.Errorf(`%w: it has no "type"%s`, ErrInvalid, hint)
	}
	var b bytes.Buffer
	b.WriteString("{\n")
	for _, key := range []string{"cniVersion", "cniVersions", "name"} {
		if v, ok := find(all, key); ok {
			fmt.Fprintf(&b, "  %q: %s,\n", key, v.of(data))
		}
	}
	fmt.Fprintf(&b, "  \"plugins\": [\n    %s\n  ]\n}\n", bytes.TrimSpace(data))
	return b.Bytes(), nil
}

// Equal reports whether two JSON texts mean the same.
func Equal(a, b []byte) bool {
	va, errA := decode(a)
	vb, errB := decode(b)
	return errA == nil && errB == nil && reflect.DeepEqual(va, vb)
}

func decode(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber() // 2^53+1 is not 2^53
	err = d.Decode(&v)
	return v, err
}

// layout spaces an entry like its neighbour.
func layout(entry, data []byte, neighbour span, space []byte) []byte {
	var b bytes.Buffer
	prefix := space[bytes.LastIndexByte(space, '\n')+1:]
	inner := spaceAfter(data, neighbour.from+1)
	unit, nested := bytes.CutPrefix(inner[bytes.LastIndexByte(inner, '\n')+1:], prefix)
	if !bytes.ContainsRune(space, '\n') || !bytes.ContainsRune(inner, '\n') || !nested {
		if json.Compact(&b, entry) == nil {
			return b.Bytes()
		}
		return entry
	}
	if len(unit) == 0 {
		unit = []byte("  ") // the neighbour's fields stand right below its brace
	}
	if json.Indent(&b, bytes.TrimSpace(entry), string(prefix), string(unit)) == nil {
		return b.Bytes()
	}
	return entry
}

// The functions below walk a text that is valid JSON.

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func skipSpace(b []byte, i int) int {
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	return i
}

// spaceBefore is how much white space stands before i.
func spaceBefore(b []byte, i int) (n int) {
	for i-n > 0 && isSpace(b[i-n-1]) {
		n++
	}
	return n
}

func spaceAfter(b []byte, i int) []byte { return b[i:skipSpace(b, i)] }

// skipValue returns the end of the value that begins at i.
func skipValue(b []byte, i int) int {
	depth := 0
	for {
		switch b[i] {
		case '"':
			i = skipString(b, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ',', ':', ' ', '\t', '\n', '\r':
			i++
		default:
			for i < len(b) && !isSpace(b[i]) && !strings.ContainsRune(",:]}", rune(b[i])) {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
}

func skipString(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// members returns those of the object that begins at i.
func members(b []byte, i int) (all []member) {
	for i = skipSpace(b, i+1); b[i] != '}'; {
		keyEnd := skipString(b, i)
		var m member
		_ = json.Unmarshal(b[i:keyEnd], &m.key) // it is a valid string
		m.value.from = skipSpace(b, skipSpace(b, keyEnd)+1)
		m.value.to = skipValue(b, m.value.from)
		all = append(all, m)
		if i = skipSpace(b, m.value.to); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	return all
}

// elements returns those of the array that begins at i.
func elements(b []byte, i int) (all []span) {
	for i = skipSpace(b, i+1); b[i] != ']'; {
		s := span{i, skipValue(b, i)}
		all = append(all, s)
		if i = skipSpace(b, s.to); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	return all
}

// find returns the last member with a key.
func find(all []member, key string) (span, bool) {
	for _, m := range slices.Backward(all) {
		if m.key == key {
			return m.value, true
		}
	}
	return span{}, false
}

// clip is the beginning of what an error quotes.
func clip(b []byte) string {
	if len(b) > 40 {
		return strings.ToValidUTF8(string(b[:40]), "") + "…"
	}
	return string(b)
}

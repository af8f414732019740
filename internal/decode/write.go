package decode

import (
	"reflect"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// A Setting is a field and its value's text form.
type Setting struct {
	Field Field
	Text  string
}

// Settings are the fields of a configuration in the order of the table: those
// that differ from [intercept.Default], or all.
func Settings(c intercept.Config, all bool) []Setting {
	var out []Setting
	defaults := intercept.Default()
	if !all && reflect.DeepEqual(c, defaults) {
		return nil // as mostly, and to write out each field takes longer than to compile the rules
	}
	for _, f := range Fields() {
		text := fieldText(&c, f.Path)
		if all || text != fieldText(&defaults, f.Path) {
			out = append(out, Setting{f, text})
		}
	}
	return out
}

// Clipped is a configuration of which lists whose text is longer than so many bytes are cut: to no fewer items than make
// it longer.
func Clipped(c intercept.Config, size int) intercept.Config {
	for _, f := range Fields() {
		if f.IsList() {
			list, shortest := fieldOf(&c, f.Path), len("1,")
			if _, is := reflect.TypeAssert[intercept.CIDRs](list); is {
				shortest = len("::/0,")
			}
			list.Set(list.Slice(0, min(size/shortest+2, list.Len())))
		}
	}
	return c
}

func fieldText(c *intercept.Config, path string) string {
	return strict.Text(fieldOf(c, path).Interface())
}

// Arg is the setting on a command line.
func (s Setting) Arg() string {
	if s.Field.IsSwitch() && s.Text == "true" {
		return "--" + s.Field.Name
	}
	return "--" + s.Field.Name + "=" + s.Text
}

// Variable is the setting in an environment.
func (s Setting) Variable() string { return s.Field.Env() + "=" + s.Text }

// Document is a configuration as a file has it: the fields that differ from
// [intercept.Default], or all.
func Document(c intercept.Config, all bool) strict.Node {
	differs := map[string]bool{}
	for _, s := range Settings(c, all) {
		differs[s.Field.Path] = true
	}
	return document("", reflect.ValueOf(&c).Elem(), differs)
}

func document(path string, v reflect.Value, include map[string]bool) strict.Node {
	n := strict.Node{Kind: strict.Mapping}
	for i, name := range strict.FieldNames(v.Type()) {
		at, value := strings.TrimPrefix(path+"."+name, "."), strict.Node{}
		switch {
		case strict.IsStruct(v.Field(i).Type()):
			if value = document(at, v.Field(i), include); len(value.Fields) == 0 {
				continue
			}
		case !include[at]:
			continue
		default:
			value = valueNode(v.Field(i))
		}
		n.Fields = append(n.Fields, strict.Field{Name: name, Value: value})
	}
	return n
}

// valueNode is a value as a file has it: a list with an item each, unless it
// stands for all.
func valueNode(v reflect.Value) strict.Node {
	text := strict.Text(v.Interface())
	if v.Kind() != reflect.Slice || text == "*" {
		return scalarNode(text)
	}
	n := strict.Node{Kind: strict.List}
	switch v.Interface().(type) {
	case interface{ String() string }: // as short as its text form is
		if v.Len() == 0 {
			return n
		}
		for item := range strings.SplitSeq(text, ",") {
			n.Items = append(n.Items, scalarNode(item))
		}
	default:
		for i := range v.Len() {
			n.Items = append(n.Items, valueNode(v.Index(i)))
		}
	}
	return n
}

// scalarNode is a text as a file has it: a number or a switch without quotes.
func scalarNode(text string) strict.Node {
	_, err := strconv.ParseUint(text, 10, 32)
	return strict.Node{Kind: strict.Scalar, Text: text, Bare: err == nil || text == "true" || text == "false"}
}

package decode

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
)

// Node is a piece of YAML or JSON whose scalars are text.
type Node struct {
	kind   kind
	text   string
	items  []Node
	fields map[string]Node
}

type kind string

const (
	null    kind = "" // yaml does not call UnmarshalYAML for it
	scalar  kind = "a value"
	list    kind = "a list"
	mapping kind = "a mapping"
)

// IsNull reports whether the node is null, or nothing has been read into it.
func (n Node) IsNull() bool { return n.kind == null }

// Has reports whether the node has the field at a path such as
// "outbound.excludePorts", or a part of it.
func (n Node) Has(path string) bool {
	for name := range strings.SplitSeq(path, ".") {
		name, _, _ = strings.Cut(name, "[")
		if n.kind != mapping {
			return n.kind != null
		}
		n = n.fields[name]
	}
	return n.kind != null
}

// Into reads a configuration's fields into c: a field that the node has
// replaces that of c, a list the whole list. On error it returns the paths of
// the fields that could not be read, "" for all of them.
func (n Node) Into(c *intercept.Config) (fields []string, err error) {
	d := decoder{}
	d.value("", n, reflect.ValueOf(c).Elem())
	return d.fields, errors.Join(d.errs...)
}

// UnmarshalYAML is for go.yaml.in/yaml, which this package does not need.
func (n *Node) UnmarshalYAML(unmarshal func(any) error) error {
	if unmarshal(&n.text) == nil {
		n.kind = scalar
		return nil
	}
	var probe []passOver
	if unmarshal(&probe) == nil {
		n.kind = list
		return unmarshal(&n.items)
	}
	n.kind = mapping
	return unmarshal(&n.fields)
}

// passOver is a piece of YAML that is not looked at.
type passOver struct{}

func (*passOver) UnmarshalYAML(func(any) error) error { return nil }

type decoder struct {
	fields []string
	errs   []error
}

func (d *decoder) fail(path string, err error) {
	d.fields = append(d.fields, path)
	if path == "" {
		d.errs = append(d.errs, err)
		return
	}
	d.errs = append(d.errs, Under(path, err))
}

// value sets v, the field of the configuration at path.
func (d *decoder) value(path string, n Node, v reflect.Value) {
	// Ports, IDs and CIDRs have a text form of their own; other slices do not.
	_, hasText := reflect.TypeAssert[interface{ Set(string) error }](v.Addr())
	switch {
	case n.kind == null:
		d.fail(path, errors.New("no value: write one, [] for an empty list, or leave the field out for its default"))
	case v.Kind() == reflect.Struct && isConfigStruct(v.Type()):
		d.structure(path, n, v)
	case v.Kind() == reflect.Slice && hasText:
		d.textList(path, n, v)
	case v.Kind() == reflect.Slice:
		d.list(path, n, v)
	case n.kind != scalar:
		d.fail(path, fmt.Errorf("%s where one value belongs", n.kind))
	default:
		d.text(path, n.text, v)
	}
}

// isConfigStruct tells the structs of a configuration's fields from those
// that are values, such as PortRange.
func isConfigStruct(t reflect.Type) bool { return t.NumField() > 0 && jsonName(t.Field(0)) != "" }

func (d *decoder) structure(path string, n Node, v reflect.Value) {
	if n.kind != mapping {
		d.fail(path, fmt.Errorf("%s where fields belong (%s)", n.kind, strings.Join(fieldNames(v.Type()), ", ")))
		return
	}
	known := fieldNames(v.Type())
	for _, name := range slices.Sorted(maps.Keys(n.fields)) {
		if !slices.Contains(known, name) {
			d.errs = append(d.errs, Under(join(path, name), fmt.Errorf("unknown field; %s",
				Hint(name, known, "the fields here are "+strings.Join(known, ", ")))))
		}
	}
	for _, name := range known {
		if f, ok := n.fields[name]; ok {
			d.value(join(path, name), f, fieldByName(v, name))
		}
	}
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for field := range t.Fields() {
		names = append(names, jsonName(field))
	}
	return names
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// textList reads `80`, `"80,8000-8010"` or `[80, 8000-8010]`.
func (d *decoder) textList(path string, n Node, v reflect.Value) {
	switch n.kind {
	case scalar:
		d.text(path, n.text, v)
		return
	case mapping:
		d.fail(path, fmt.Errorf("%s where a list belongs", n.kind))
		return
	case null, list:
	}
	texts := make([]string, len(n.items))
	for i, item := range n.items {
		switch {
		case item.kind == null:
			d.fail(fmt.Sprintf("%s[%d]", path, i), errors.New("no value; remove the item"))
			return
		case item.kind != scalar:
			d.fail(fmt.Sprintf("%s[%d]", path, i), fmt.Errorf("%s where one value belongs", item.kind))
			return
		case strings.Contains(item.text, ","):
			d.fail(fmt.Sprintf("%s[%d]", path, i), fmt.Errorf("%q: write one item an entry", item.text))
			return
		}
		texts[i] = item.text
	}
	if len(texts) == 0 {
		v.SetZero()
		return
	}
	d.text(path, strings.Join(texts, ","), v)
}

func (d *decoder) list(path string, n Node, v reflect.Value) {
	if n.kind != list {
		d.fail(path, fmt.Errorf("%s where a list belongs: write [%s]", n.kind, n.text))
		return
	}
	if len(n.items) == 0 {
		v.SetZero()
		return
	}
	fresh := reflect.MakeSlice(v.Type(), len(n.items), len(n.items))
	for i, item := range n.items {
		d.value(fmt.Sprintf("%s[%d]", path, i), item, fresh.Index(i))
	}
	v.Set(fresh)
}

func (d *decoder) text(path, text string, v reflect.Value) {
	fresh := reflect.New(v.Type())
	if err := Set(fresh.Interface(), text); err != nil {
		d.fail(path, err)
		return
	}
	v.Set(fresh.Elem())
}

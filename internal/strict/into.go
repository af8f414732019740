package strict

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Into reads the node into what target points at, a struct whose fields have
// names in JSON: a field that the node has replaces the target's, a list the
// whole list. The errors joined are of type [*Error]; unread are the paths of
// the fields that could not be read, "" for all of them. Those of the target
// are as they were.
func (n Node) Into(target any) (unread []string, err error) {
	v := reflect.ValueOf(target).Elem()
	d := decoder{root: v.Type()}
	d.value("", n, v)
	return d.unread, d.errs.Err()
}

// UnmarshalJSON is the method of that name for a type that is to be read strictly.
func UnmarshalJSON(data []byte, target any) error {
	n, err := ParseJSON(data)
	if err != nil || n.Kind == Null { // encoding/json: null changes nothing
		return err
	}
	_, err = n.Into(target)
	return err
}

type decoder struct {
	root   reflect.Type
	unread []string
	errs   Errors
}

func (d *decoder) fail(path string, line int, err error) {
	d.unread = append(d.unread, path)
	for _, e := range Flatten(err) {
		d.errs.Add(&Error{path, line, e})
	}
}

// value sets v, which is at a path.
func (d *decoder) value(path string, n Node, v reflect.Value) {
	_, set := reflect.TypeAssert[interface{ Set(string) error }](v.Addr())
	_, text := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr())
	switch {
	case n.Kind == Null:
		d.fail(path, n.Line, errors.New("no value: write one, [] for an empty list, or leave the field out for its default"))
	case IsStruct(v.Type()) && !(text && n.Kind == Scalar):
		d.structure(path, n, v)
	case v.Kind() == reflect.Slice && set:
		d.textList(path, n, v)
	case v.Kind() == reflect.Slice:
		d.list(path, n, v)
	case n.Kind != Scalar:
		d.fail(path, n.Line, fmt.Errorf("%s where one value belongs", n.Kind))
	case v.Kind() == reflect.String && n.Bare && (n.Text == "true" || n.Text == "false"):
		d.fail(path, n.Line, fmt.Errorf(`%s where a word belongs: YAML 1.1 takes an unquoted on, yes, off or no for it; `+
			`quote it, as in "off"`, n.Text))
	default:
		d.text(path, n, v)
	}
}

// IsStruct tells the structs whose fields are read from those that are values,
// such as a range of ports.
func IsStruct(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t.NumField() > 0 && FieldName(t.Field(0)) != ""
}

// FieldName is a struct's field's name in JSON, or "".
func FieldName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// FieldNames are the names of a struct's fields in JSON.
func FieldNames(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = FieldName(t.Field(i))
	}
	return names
}

// Paths are those of all fields of a struct that are not structs themselves.
func Paths(t reflect.Type) []string {
	var paths []string
	for f := range t.Fields() {
		name := FieldName(f)
		if !IsStruct(f.Type) {
			paths = append(paths, name)
			continue
		}
		for _, inside := range Paths(f.Type) {
			paths = append(paths, name+"."+inside)
		}
	}
	return paths
}

// Lookup returns the field of a struct at a path such as "outbound.exclude".
func Lookup(v reflect.Value, path string) reflect.Value {
	for name := range strings.SplitSeq(path, ".") {
		i, t := 0, v.Type()
		for FieldName(t.Field(i)) != name {
			i++
		}
		v = v.Field(i)
	}
	return v
}

func (d *decoder) structure(path string, n Node, v reflect.Value) {
	known := FieldNames(v.Type())
	if n.Kind != Mapping {
		d.fail(path, n.Line, fmt.Errorf("%s where fields belong (%s)", n.Kind, strings.Join(known, ", ")))
		return
	}
	for _, f := range n.Fields {
		if slices.Contains(known, f.Name) {
			continue
		}
		if d.errs.Full() {
			d.errs.Omit()
			continue
		}
		d.errs.Add(&Error{Join(path, f.Name), f.Line, d.unknown(f.Name, known)})
	}
	for i, name := range known {
		if f := slices.IndexFunc(n.Fields, func(f Field) bool { return f.Name == name }); f >= 0 {
			value := n.Fields[f].Value
			value.Line = max(value.Line, n.Fields[f].Line)
			d.value(Join(path, name), value, v.Field(i))
		}
	}
}

// unknown is the error about a field that there is not, here. It may be one
// that stands elsewhere.
func (d *decoder) unknown(name string, known []string) error {
	elsewhere := Hint(name, Paths(d.root), "the fields here are "+strings.Join(known, ", "))
	return fmt.Errorf("unknown field; %s", Hint(name, known, elsewhere))
}

// Join is the path of a field of what is at a path.
func Join(path, name string) string {
	name = OneLine(Clip(name))
	if path == "" {
		return name
	}
	return path + "." + name
}

// textList reads `80`, `"80,8000-8010"` or `[80, 8000-8010]`.
func (d *decoder) textList(path string, n Node, v reflect.Value) {
	switch n.Kind {
	case Scalar:
		d.text(path, n, v)
		return
	case Mapping:
		d.fail(path, n.Line, fmt.Errorf("%s where a list belongs", n.Kind))
		return
	case Null, List:
	}
	size := 0
	for item := range n.each() {
		size += len(item.Text) + 1
	}
	var texts strings.Builder
	texts.Grow(size)
	i := 0
	for item := range n.each() {
		var err error
		text := Tidy(item.Text)
		switch {
		case item.Kind == Null:
			err = errors.New("no value; remove the item")
		case item.Kind != Scalar:
			err = fmt.Errorf("%s where one value belongs", item.Kind)
		case strings.ContainsAny(text, ",\n"):
			err = fmt.Errorf("%q: write one item an entry", Clip(item.Text))
		}
		if err != nil {
			d.fail(fmt.Sprintf("%s[%d]", path, i), item.Line, err)
			return
		}
		if i > 0 {
			texts.WriteByte(',')
		}
		texts.WriteString(text)
		i++
	}
	if n.isEmpty() {
		v.SetZero()
		return
	}
	fresh := reflect.New(v.Type())
	err := SetText(fresh.Interface(), texts.String())
	if err == nil {
		v.Set(fresh.Elem())
		return
	}
	// Which items are they, and on which lines?
	found := false
	for item := range n.each() {
		if err := SetText(fresh.Interface(), item.Text); err != nil {
			found = true
			d.fail(path, item.Line, err)
		}
	}
	if !found {
		d.fail(path, n.Line, err)
	}
}

func (d *decoder) list(path string, n Node, v reflect.Value) {
	// "a,b", as of lists of ports
	if _, ok := reflect.TypeAssert[encoding.TextUnmarshaler](reflect.New(v.Type().Elem())); n.Kind == Scalar &&
		(ok || v.Type().Elem() == reflect.TypeFor[string]()) {
		d.text(path, n, v)
		return
	}
	if n.Kind != List {
		hint := ""
		if n.Kind == Scalar {
			hint = ": write [" + Clip(n.Text) + "]"
		}
		d.fail(path, n.Line, fmt.Errorf("%s where a list belongs%s", n.Kind, hint))
		return
	}
	if n.isEmpty() {
		v.SetZero()
		return
	}
	items := slices.Collect(n.each())
	fresh := reflect.MakeSlice(v.Type(), len(items), len(items))
	for i, item := range items {
		d.value(fmt.Sprintf("%s[%d]", path, i), item, fresh.Index(i))
	}
	v.Set(fresh)
}

func (d *decoder) text(path string, n Node, v reflect.Value) {
	fresh := reflect.New(v.Type())
	if err := SetText(fresh.Interface(), n.Text); err != nil {
		d.fail(path, n.Line, err)
		return
	}
	v.Set(fresh.Elem())
}

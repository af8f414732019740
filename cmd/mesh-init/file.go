package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v2"

	"github.com/mesh-intercept/intercept"
)

// decodeFile reads a configuration file, YAML or JSON, into c: a field that
// the file has replaces that of c, a list the whole list. On error it returns
// the paths of the fields that could not be read, "" for all of them.
//
// It reads scalars as they are written. Decoders that go through JSON take
// YAML's off for false, 0010 for 8, OUTBOUND for outbound, and nothing at all
// for the second of two documents.
func decodeFile(data []byte, c *intercept.Config) (fields []string, err error) {
	var root node
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.SetStrict(true) // no key twice
	switch err := decodeDocument(d, &root); {
	case errors.Is(err, io.EOF) || err == nil && root.kind == null:
		return []string{""}, errors.New("empty file; write the fields that differ from the defaults, or leave the file out")
	case err != nil:
		return []string{""}, yamlErrors(err)
	}
	var second node
	if err := decodeDocument(d, &second); !errors.Is(err, io.EOF) {
		return []string{""}, errors.New("more after the end of the first YAML document; a configuration is one document")
	}
	dec := fileDecoder{}
	dec.value("", root, reflect.ValueOf(c).Elem())
	return dec.fields, errors.Join(dec.errs...)
}

// decodeDocument decodes the next YAML document. The parser panics on some
// malformed input that it does not foresee; that is an error like others.
func decodeDocument(d *yaml.Decoder, n *node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed YAML: %v", r)
		}
	}()
	return d.Decode(n)
}

// yamlErrors makes one error of each of YAML's lines.
func yamlErrors(err error) error {
	var many *yaml.TypeError
	if !errors.As(err, &many) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var errs []error
	for _, e := range many.Errors {
		errs = append(errs, errors.New(e))
	}
	return errors.Join(errs...)
}

// node is a piece of YAML whose scalars are text.
type node struct {
	kind   kind
	text   string
	items  []node
	fields map[string]node
}

type kind string

const (
	null    kind = "" // yaml does not call UnmarshalYAML for it
	scalar  kind = "a value"
	list    kind = "a list"
	mapping kind = "a mapping"
)

// UnmarshalYAML implements [yaml.Unmarshaler].
func (n *node) UnmarshalYAML(unmarshal func(any) error) error {
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

type fileDecoder struct {
	fields []string
	errs   []error
}

func (d *fileDecoder) fail(path string, err error) {
	d.fields = append(d.fields, path)
	if path == "" {
		d.errs = append(d.errs, err)
		return
	}
	d.errs = append(d.errs, under(path, err))
}

// value sets v, the field of the configuration at path.
func (d *fileDecoder) value(path string, n node, v reflect.Value) {
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

func (d *fileDecoder) structure(path string, n node, v reflect.Value) {
	if n.kind != mapping {
		d.fail(path, fmt.Errorf("%s where fields belong (%s)", n.kind, strings.Join(fieldNames(v.Type()), ", ")))
		return
	}
	known := fieldNames(v.Type())
	for _, name := range slices.Sorted(maps.Keys(n.fields)) {
		if !slices.Contains(known, name) {
			d.errs = append(d.errs, under(join(path, name), fmt.Errorf("unknown field; %s",
				hint(name, known, "the fields here are "+strings.Join(known, ", ")))))
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
func (d *fileDecoder) textList(path string, n node, v reflect.Value) {
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

func (d *fileDecoder) list(path string, n node, v reflect.Value) {
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

func (d *fileDecoder) text(path, text string, v reflect.Value) {
	fresh := reflect.New(v.Type())
	if err := setText(fresh.Interface(), text); err != nil {
		d.fail(path, err)
		return
	}
	v.Set(fresh.Elem())
}

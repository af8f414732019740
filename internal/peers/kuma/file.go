package kuma

import (
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// file reads a configuration, YAML or JSON, over what others had. "-" is standard input.
func (r *reader) file(name string) {
	data, err := r.world.ReadFile(name)
	if err != nil {
		r.wrong("--"+keyConfig, err, false)
		return
	}
	read := r.world.Document
	if read == nil {
		read = strict.ParseJSON
	}
	root, err := read(data)
	if err == nil && root.Kind == strict.Null {
		return
	}
	if err == nil && root.Kind != strict.Mapping {
		err = fmt.Errorf("%s where fields belong", root.Kind)
	}
	if name = strict.OneLine(name); err != nil {
		r.wrong(name, err, false)
		return
	}
	r.fields(name, "", root)
}

// fields reads those of a mapping at a path, which is "" or ends with a dot.
func (r *reader) fields(file, path string, n strict.Node) {
	for i := range n.Fields {
		f := &n.Fields[i]
		source := fmt.Sprintf("%s: %s (line %d)", file, strict.OneLine(strict.Clip(path+f.Name)), f.Line)
		w, section, here := r.find(path, f.Name)
		switch {
		case f.Value.Kind == strict.Null:
		case w != nil:
			texts, err := textsOf(&w.setting, &f.Value)
			if err != nil {
				r.wrong(source, err, false)
				continue
			}
			w.set(texts, source)
		case section == "":
			if r.notKnown(source, f.Name, here, namesIn(&f.Value)...); r.unknown > strict.Most {
				return
			}
		case f.Value.Kind == strict.Mapping:
			r.fields(file, section, f.Value)
		default:
			r.wrong(source, fmt.Errorf("%s where fields belong", f.Value.Kind), false)
		}
	}
}

// find returns the setting of a field, or the path of the section that it is, and the names that there are. As
// encoding/json does, kumactl takes them in any case.
func (r *reader) find(path, name string) (found *row, section string, here []string) {
	for i := range r.rows {
		rest, below := strings.CutPrefix(r.rows[i].path, path)
		if !below || rest == "" {
			continue
		}
		first, _, inner := strings.Cut(rest, ".")
		here = append(here, first)
		switch {
		case !strings.EqualFold(first, name):
		case inner:
			section = path + first + "."
		default:
			found = &r.rows[i]
		}
	}
	return found, section, here
}

// namesIn are those of all fields of a node.
func namesIn(n *strict.Node) (names []string) {
	for i := range n.Fields {
		names = append(append(names, n.Fields[i].Name), namesIn(&n.Fields[i].Value)...)
	}
	return names
}

// textsOf are what a field has for a setting.
func textsOf(s *setting, n *strict.Node) (texts []string, err error) {
	switch {
	case n.Kind == strict.Scalar && s.form == list:
		return split([]string{n.Text}, ";"), nil
	case n.Kind == strict.Scalar:
		return []string{n.Text}, nil
	case n.Kind == strict.Mapping && (s.form == programs || s.path == "ebpf"):
		for _, f := range n.Fields {
			texts = append(texts, f.Name+":"+f.Value.Text)
		}
		return texts, nil
	case n.Kind == strict.List && (s.form == list || s.form == ports):
		for _, item := range n.Items {
			if item.Kind != strict.Scalar {
				return nil, fmt.Errorf("%s where one value belongs", item.Kind)
			}
			texts = append(texts, item.Text)
		}
		if s.form == ports {
			texts = []string{strings.Join(texts, ",")}
		}
		return texts, nil
	}
	return nil, fmt.Errorf("%s where %s belongs", n.Kind, s.form)
}

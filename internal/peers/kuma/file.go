package kuma

import (
	"errors"
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// file reads a configuration, YAML or JSON, over what others had. "-" is standard input.
func (r *reader) file(name string) {
	if name == "" {
		return
	}
	data, err := r.world.ReadFile(name)
	if err != nil {
		r.errs.Add(fmt.Errorf("--config: %w", err))
		return
	}
	root, err := yamldoc.Parse(data)
	switch {
	case errors.Is(err, yamldoc.ErrEmpty):
		return
	case err != nil:
		r.errs.Add(strict.Under(strict.OneLine(name), err))
		return
	case root.Kind != strict.Mapping:
		r.fail(name, "%s where fields belong", root.Kind)
		return
	}
	r.fields(strict.OneLine(name), "", root)
}

// fields reads those of a mapping at a path, which is "" or ends with a dot. As encoding/json does, kumactl takes names
// in any case.
func (r *reader) fields(file, path string, n strict.Node) {
	for _, f := range n.Fields {
		at := path + f.Name
		source := fmt.Sprintf("%s: %s (line %d)", file, strict.OneLine(strict.Clip(at)), f.Line)
		s, section, here := find(path, f.Name)
		switch {
		case f.Value.Kind == strict.Null:
		case s.path == "ebpf":
			r.take(given{s, []string{f.Value.Quote()}, source, false})
		case s.path != "":
			if texts, ok := r.texts(source, s, f.Value); ok {
				r.take(given{s, texts, source, false})
			}
		case section != "" && f.Value.Kind == strict.Mapping:
			r.fields(file, section, f.Value)
		case section != "":
			r.fail(source, "%s where fields belong", f.Value.Kind)
		default:
			r.unknown(source, strict.Hint(f.Name, here, ""), f.Value)
		}
	}
}

// find returns the setting of a field, or the path of the section that it is, and the names that there are.
func find(path, name string) (s setting, section string, here []string) {
	for _, known := range settings() {
		rest, below := strings.CutPrefix(known.path, path)
		if !below || known.path == "" {
			continue
		}
		first, _, inner := strings.Cut(rest, ".")
		here = append(here, first)
		switch {
		case !strings.EqualFold(first, name):
		case inner:
			section = path + first + "."
		default:
			s = known
		}
	}
	return s, section, here
}

// texts are what a field has for a setting.
func (r *reader) texts(source string, s setting, n strict.Node) (texts []string, ok bool) {
	switch {
	case n.Kind == strict.Scalar && s.form == list:
		return split([]string{n.Text}, ";"), true
	case n.Kind == strict.Scalar:
		return []string{n.Text}, true
	case n.Kind == strict.List && (s.form == list || s.form == ports):
		for _, item := range n.Items {
			if item.Kind != strict.Scalar {
				r.fail(source, "%s where one value belongs", item.Kind)
				return nil, false
			}
			texts = append(texts, item.Text)
		}
		if s.form == ports {
			texts = []string{strings.Join(texts, ",")}
		}
		return texts, true
	case n.Kind == strict.Mapping && s.form == programs:
		for _, f := range n.Fields {
			texts = append(texts, f.Name+":"+f.Value.Text)
		}
		return texts, true
	}
	r.fail(source, "%s where %s belongs", n.Kind, s.form)
	return nil, false
}

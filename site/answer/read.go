package answer

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/arguments"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/version"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/podspec"
	"github.com/mesh-intercept/intercept/settings"
)

// form reads a configuration in one form, and writes it.
type form struct {
	name string
	// read also returns what there is to say about the text.
	read func(Source) (intercept.Config, []string, error)
	// write returns a configuration in the form, or why it cannot. With both, the text says something else, and the error
	// in what.
	write func(intercept.Config) (string, error)
}

func forms() []form {
	return []form{
		{FormFields, readFields, nil},
		{FormYAML, readYAML, writeYAML},
		{FormFlags, readFlags, writeFlags},
		{FormAnnotations, readAnnotations, writeAnnotations},
		{FormIstio, readIstio, writeIstio},
	}
}

// Forms are the forms there are.
func Forms() (names []string) {
	for _, f := range forms() {
		names = append(names, f.name)
	}
	return names
}

// config reads the configuration of a source.
func (s Source) config() (intercept.Config, []string, error) {
	if s.Form == "" {
		s.Form = FormFields
	}
	for _, f := range forms() {
		if f.name == s.Form {
			return f.read(s)
		}
	}
	return intercept.Config{}, nil, errors.New("form: " + strict.Hint(s.Form, Forms(), "they are form, yaml, flags and others"))
}

func read(r Request) (any, error) {
	c, notes, err := r.Source.config()
	if err != nil {
		return nil, in("source", err)
	}
	rs, err := intercept.Compile(c)
	if err != nil {
		return nil, in("source", err)
	}
	out := Read{Config: c, Forms: map[string]string{}, Fields: map[string]string{}, Changed: []string{},
		Unsaid: map[string]string{}, Warnings: list(intercept.Lint(c)), Notes: list(notes)}
	for _, f := range rs.Families {
		out.Families = append(out.Families, f.String())
	}
	for _, s := range decode.Settings(c, true) {
		out.Fields[s.Field.Path] = s.Text
		if s.Text != s.Field.Initial {
			out.Changed = append(out.Changed, s.Field.Path)
		}
	}
	for _, f := range forms() {
		switch {
		case f.write == nil:
		case f.name == r.Source.Form:
			out.Forms[f.name] = r.Source.Text
		default:
			text, err := f.write(c)
			if err != nil {
				out.Unsaid[f.name] = err.Error()
			}
			if text != "" {
				out.Forms[f.name] = text
			}
		}
	}
	return out, nil
}

// list is a list that is [] where it is empty.
func list(of []string) []string {
	if of == nil {
		return []string{}
	}
	return of
}

// lookups make a configuration that needs the name servers of a pod one that has them: the page has no pod.
func done(l *decode.Layers) (intercept.Config, []string, error) {
	var notes []string
	if l.NeedsServers() {
		notes = append(notes, "the name servers are those of the pod's resolv.conf, which is not known here: all lookups stand "+
			"for those to them")
	}
	c, err := l.Done()
	if err != nil {
		return c, nil, err
	}
	return decode.WithoutPod(c), notes, nil
}

func readFields(s Source) (intercept.Config, []string, error) {
	l := decode.Over(intercept.Default())
	known := map[string]bool{}
	for _, f := range decode.Fields() {
		known[f.Path] = true
		if text, given := s.Fields[f.Path]; given {
			l.Text("", f, text)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(s.Fields)) {
		if !known[path] {
			l.Errs.Add(&intercept.FieldError{Field: path, Err: errors.New("unknown field; " +
				strict.Hint(path, slices.Sorted(maps.Keys(known)), "the schema lists those there are"))})
		}
	}
	return done(l)
}

func readYAML(s Source) (intercept.Config, []string, error) {
	l := decode.Over(intercept.Default())
	if strings.TrimSpace(s.Text) != "" { // an empty editor: the defaults
		doc, err := yamldoc.ParseLong([]byte(s.Text))
		if !errors.Is(err, yamldoc.ErrEmpty) {
			l.Document("", doc, err)
		}
	}
	return done(l)
}

func writeYAML(c intercept.Config) (string, error) { return string(settings.YAML(c)), nil }

// verb is one of mesh-init whose flags are those of a configuration.
func verb() arguments.Verb {
	v := arguments.Verb{Program: "mesh-init", Name: "render"}
	for _, f := range decode.Fields() {
		flag := arguments.Flag{Field: f}
		for _, name := range f.Deprecated {
			flag.Old = append(flag.Old, arguments.OldName{Name: name})
		}
		v.Flags = append(v.Flags, flag)
	}
	return v
}

func readFlags(s Source) (intercept.Config, []string, error) {
	words, err := arguments.Words(s.Text)
	if err != nil {
		return intercept.Config{}, nil, err
	}
	if len(words) > 0 && strings.HasSuffix(words[0], "mesh-init") {
		if words = words[1:]; len(words) > 0 && !strings.HasPrefix(words[0], "-") {
			words = words[1:]
		}
	}
	line := verb().Read(words)
	l := decode.Over(intercept.Default())
	l.Errs.Add(line.Errs...)
	l.Name = func(f decode.Field) string { return "--" + f.Name }
	for _, g := range line.Given {
		if strings.HasPrefix(g.Text, "@") && g.IsList() {
			l.Unreadable(g.Source, g.Path, errors.New("a page reads no files; write the list here"))
			continue
		}
		l.Text(g.Source, g.Field, g.Text)
	}
	c, notes, err := done(l)
	return c, append(line.Notes, notes...), err
}

func writeFlags(c intercept.Config) (string, error) {
	words := []string{"mesh-init apply"}
	for _, arg := range settings.Args(c) {
		words = append(words, arguments.Quote(arg))
	}
	return strings.Join(words, " \\\n  "), nil
}

func writeAnnotations(c intercept.Config) (string, error) {
	n := strict.Node{Kind: strict.Mapping}
	all := settings.Annotations(c, podspec.DefaultPrefix)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		n.Fields = append(n.Fields, strict.Field{Name: name, Value: strict.Node{Kind: strict.Scalar, Text: all[name]}})
	}
	text, err := yamldoc.Format(n)
	return string(text), err
}

func schema(Request) (any, error) {
	out := Schema{Version: version.Get().Version, Document: settings.Schema(), Forms: Forms(), Ops: Ops()}
	for _, f := range decode.Fields() {
		field := fieldOf(f)
		field.Path, field.Section = f.Path, string(f.Group)
		field.Flag, field.Variable, field.Annotation = "--"+f.Name, f.Env(), podspec.DefaultPrefix+"/"+f.Name
		if !slices.Contains(out.Sections, field.Section) {
			out.Sections = append(out.Sections, field.Section)
		}
		out.Fields = append(out.Fields, field)
	}
	for _, f := range append(explain.Fields(), explain.State()) {
		field := fieldOf(f)
		field.Path, field.Flag = packetField(f.Name), "--"+f.Name
		out.Packet = append(out.Packet, field)
	}
	return out, nil
}

// packetField is the name in a request of a packet's flag.
func packetField(flag string) string {
	if flag == "to-self" {
		return "toSelf"
	}
	return flag
}

func fieldOf(f decode.Field) Field {
	out := Field{Kind: "text", Form: f.Form, Choices: f.Choices(), Default: f.Initial, Meaning: f.Meaning()}
	switch {
	case f.IsSwitch():
		out.Kind = "switch"
	case out.Choices != nil:
		out.Kind = "choice"
	case f.IsList():
		out.Kind = "list"
	}
	return out
}

// Package settings reads configurations from where programs are given them:
// from YAML and JSON, the environment and flags; and writes them in the same
// forms. A program that uses it understands what mesh-init understands.
//
// A mistake is never passed over: a field that is unknown, misspelt, given
// twice or of the wrong type is an error, and all of them are reported at once.
// They are joined by [errors.Join]; [errors.As] finds [*intercept.FieldError],
// which has the field, the source and the line.
package settings

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// Load reads a configuration from YAML or JSON, over [intercept.Default].
func Load(data []byte) (intercept.Config, error) {
	if data == nil {
		data = []byte{} // an error, and not no source
	}
	r, err := Read(Sources{Data: data})
	return r.Config, err
}

// LoadFile is [Load] of a file. Its errors name the file.
func LoadFile(path string) (intercept.Config, error) {
	r, err := Read(Sources{File: path})
	return r.Config, err
}

// FromEnvironment reads the variables MESH_… of an environment such as
// [os.Environ], over [intercept.Default]. A variable that is nearly the name of
// one of these is an error. Others are passed over, and so are Kubernetes'
// variables for Services whose names begin with mesh; [Read] names them.
func FromEnvironment(environ []string) (intercept.Config, error) {
	r, err := Read(Sources{Environ: environ})
	return r.Config, err
}

// Sources are the places where fields can be set. Flags go before the
// environment, that before the file, that before Data, and that before the
// defaults: a field replaces the weaker one, a list the whole list. Zero ones
// set nothing.
type Sources struct {
	// Defaults hold where nothing is set. The zero Config stands for
	// [intercept.Default].
	Defaults intercept.Config
	// Data is YAML or JSON. Nil: there is none; empty data are an error.
	Data []byte
	// File is the path of a file of YAML or JSON. Empty: there is none.
	File string
	// Environ has entries KEY=VALUE, as [os.Environ] returns them.
	Environ []string
	// OwnVariables are variables MESH_… of the program's own.
	OwnVariables []string
	// Flags are those of [RegisterFlags], after their set has been parsed.
	Flags *Flags
	// Nameservers are the pod's, for mode resolvconf where none are named;
	// [intercept.ParseResolvConf] reads them. Nil: they are not known.
	Nameservers []netip.Addr
}

// Result is what sources come to.
type Result struct {
	// Config is valid, but for the name servers where NameserversInPod is set.
	Config intercept.Config
	// NameserversInPod is whether the Config has mode resolvconf and no name
	// servers, since they stand in the pod's resolv.conf.
	NameserversInPod bool
	// Note names, in a sentence, variables MESH_… that are no settings and were
	// passed over. Empty: there are none.
	Note string

	layers *decode.Layers
}

// Origin is where a value came from.
type Origin struct {
	// Source is a flag (--dns), a variable (MESH_DNS), a file's path, or "data".
	// Empty: it is the default.
	Source string
	// Line is the value's line in the file or data. Zero: it has none.
	Line int
}

// Origin returns where the value of the field at a path came from, such as
// "outbound.excludePorts".
func (r Result) Origin(path string) Origin { return Origin(r.layers.Origin(path)) }

// Read lays sources over each other.
func Read(s Sources) (Result, error) {
	defaults := s.Defaults
	if reflect.ValueOf(defaults).IsZero() {
		defaults = intercept.Default()
	}
	l := decode.Over(defaults)
	if s.Data != nil {
		doc, err := yamldoc.ParseLong(s.Data)
		l.Document("data", doc, err)
	}
	if s.File != "" {
		data, err := yamldoc.ReadFile(s.File, nil)
		doc, parseErr := yamldoc.ParseLong(data)
		if err == nil {
			err = parseErr
		}
		l.Document(s.File, doc, err)
	}
	note := s.environment(l)
	if s.Flags != nil {
		s.Flags.lay(l)
	}
	if l.NeedsServers() && s.Nameservers != nil {
		l.Servers(s.Nameservers)
	}
	c, err := l.Done()
	if err != nil {
		return Result{Note: note, layers: l}, err
	}
	return Result{c, l.NeedsServers(), note, l}, nil
}

func (s Sources) environment(l *decode.Layers) (note string) {
	byFlag := map[string]decode.Field{}
	variables, note, err := decode.Environ(s.Environ, func() (flags decode.Flags) {
		for _, f := range decode.Fields() {
			for _, name := range f.Names() {
				flags.Names = append(flags.Names, name)
				byFlag[name] = f
			}
		}
		for _, v := range s.OwnVariables {
			own := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(v, decode.EnvPrefix), "_", "-"))
			flags.Names = append(flags.Names, own)
		}
		return flags
	}, func(flag string) bool { return s.Flags.has(byFlag[flag].Name) })
	l.Errs.Add(err)
	for _, v := range variables {
		if f, ok := byFlag[v.Flag]; ok {
			l.Text(v.Name, f, v.Text)
		}
	}
	return note
}

// Flags are the flags of a configuration's fields in a program.
type Flags struct{ given map[string]string }

// RegisterFlags adds a flag for each field of a configuration. What they say
// is read, and judged, by [Read].
func RegisterFlags(fs *pflag.FlagSet) *Flags {
	flags := &Flags{map[string]string{}}
	for _, f := range decode.Fields() {
		for i, name := range f.Names() {
			added := fs.VarPF(&flag{f, flags.given}, name, "", f.Meaning())
			if f.IsSwitch() {
				added.NoOptDefVal = "true"
			}
			if i > 0 {
				added.Deprecated, added.Hidden = "write --"+f.Name, true
			}
		}
	}
	return flags
}

func (f *Flags) has(name string) bool {
	if f == nil {
		return false
	}
	_, ok := f.given[name]
	return ok
}

func (f *Flags) lay(l *decode.Layers) {
	for _, field := range decode.Fields() {
		if text, ok := f.given[field.Name]; ok {
			l.Text("--"+field.Name, field, text)
		}
	}
}

// flag is one of Flags (pflag.Value).
type flag struct {
	decode.Field
	given map[string]string
}

func (f *flag) String() string {
	if text, ok := f.given[f.Name]; ok {
		return text
	}
	return f.Initial
}

func (f *flag) Set(text string) error {
	before, again := f.given[f.Name]
	text = f.Tidy(text)
	switch {
	case again && f.Repeats():
		text = before + ";" + text
	case again:
		return fmt.Errorf("given twice, %q and %q: give it once", before, text)
	}
	f.given[f.Name] = text
	return nil
}

func (f *flag) Type() string {
	if f.IsSwitch() {
		return "bool"
	}
	return f.Form
}

// Option changes what is written.
type Option int

// All writes every field. Without it those are left out that are as in
// [intercept.Default].
const All Option = 1

func all(options []Option) bool { return len(options) > 0 }

// Args writes a configuration as arguments of mesh-init, in the order of the
// flags in its help: --outbound-exclude-ports=5432.
func Args(c intercept.Config, options ...Option) []string {
	var args []string
	for _, s := range decode.Settings(c, all(options)) {
		args = append(args, s.Arg())
	}
	return args
}

// Environ writes a configuration as variables of mesh-init's environment:
// MESH_OUTBOUND_EXCLUDE_PORTS=5432.
func Environ(c intercept.Config, options ...Option) []string {
	var environ []string
	for _, s := range decode.Settings(c, all(options)) {
		environ = append(environ, s.Variable())
	}
	return environ
}

// Annotations writes a configuration as annotations of a pod, under a prefix
// such as [podspec.DefaultPrefix], with the one that enables interception.
//
// [podspec.DefaultPrefix]: https://pkg.go.dev/github.com/mesh-intercept/intercept/podspec#DefaultPrefix
func Annotations(c intercept.Config, prefix string, options ...Option) map[string]string {
	annotations := map[string]string{prefix + "/enabled": "true"}
	for _, s := range decode.Settings(c, all(options)) {
		annotations[prefix+"/"+s.Field.Name] = s.Text
	}
	return annotations
}

// YAML writes a configuration as a file for mesh-init --config. Readers of YAML
// 1.1 and 1.2 understand it alike.
func YAML(c intercept.Config, options ...Option) []byte {
	text, err := yamldoc.Format(decode.Document(c, all(options)))
	if err != nil {
		panic(errors.Join(errors.New("a document of texts has no form in YAML"), err))
	}
	return text
}

// Schema is the JSON Schema (draft 2020-12) of a configuration in YAML or JSON,
// for editors, and for programs that check files without this package.
func Schema() []byte { return decode.Schema() }

// Field describes one field of a configuration.
type Field struct {
	Path       string   // in YAML and JSON, and in [intercept.FieldError]
	Flag       string   // with its dashes
	Variable   string   // of the environment
	Annotation string   // after the prefix and the slash
	Choices    []string // all values there are; nil: they are not counted
	Default    string   // in the text form that flags, variables and annotations share
	Meaning    string   // a sentence
}

// Fields is the table of all fields.
func Fields() []Field {
	var fields []Field
	for _, f := range decode.Fields() {
		fields = append(fields, Field{f.Path, "--" + f.Name, f.Env(), f.Name, f.Choices(), f.Initial, f.Meaning()})
	}
	return fields
}

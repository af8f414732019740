package arguments

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept/internal/decode"
)

// A Flag is one row of a table of flags, which the command line, the
// environment, the help and shell completion share.
type Flag struct {
	decode.Field
	// Short is the letter for it, as in -o, or "".
	Short string
	// Once: it belongs to one run, so it is not taken from the environment.
	Once bool
	// Unasked: whoever means another flag is not pointed to it.
	Unasked bool
	// Old are the names that it had before. They still work.
	Old []OldName
}

// An OldName is a deprecated way to give a flag.
type OldName struct {
	Name string
	// Means is the value that it stands for; "" if it takes one.
	Means string
}

// Write is what to write instead of an old name.
func (f Flag) Write(o OldName) string {
	switch {
	case o.Means != "":
		return "--" + f.Name + " " + o.Means
	case f.Short != "":
		return "--" + f.Name + " (-" + f.Short + ")"
	}
	return "--" + f.Name
}

// Find returns the flag of a name.
func Find(all []Flag, name string) (Flag, bool) {
	for i := range all {
		if all[i].Name == name {
			return all[i], true
		}
	}
	return Flag{}, false
}

// value collects the texts that are given for a flag.
type value struct {
	flag  Flag
	given []string
}

// String is part of [pflag.Value].
func (v *value) String() string { return strings.Join(v.given, ";") }

// Set is part of [pflag.Value].
func (v *value) Set(text string) error {
	v.given = append(v.given, v.flag.Tidy(text))
	return nil
}

// Type is part of [pflag.Value]. By it cobra knows which flags can be given again.
func (v *value) Type() string {
	switch {
	case v.flag.IsSwitch():
		return "bool"
	case v.flag.Repeats():
		return "stringSlice"
	}
	return "string"
}

// oldValue is a deprecated name for a value.
type oldValue struct {
	*value
	means string
}

// Set is part of [pflag.Value].
func (o oldValue) Set(text string) error {
	if o.means != "" {
		text = o.means
	}
	return o.value.Set(text)
}

// Register makes pflag's flags of a table. --dns_port is --dns-port.
func Register(set *pflag.FlagSet, all []Flag) {
	set.SortFlags = false
	set.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	for _, f := range all {
		v := &value{flag: f}
		p := set.VarPF(v, f.Name, f.Short, strings.ReplaceAll(f.Usage, "\n", " "))
		if f.IsSwitch() {
			p.NoOptDefVal = "true"
		}
		for _, o := range f.Old {
			p := set.VarPF(oldValue{v, o.Means}, o.Name, "", "")
			p.NoOptDefVal, p.Deprecated, p.Hidden = o.Means, "write "+f.Write(o), true
		}
	}
}

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
)

// allFlags are the flags of all verbs.
func allFlags() []cli.Flag { return program{}.commandLine(nil).AllFlags() }

// flagsOf are the flags of a verb, but --help.
func flagsOf(v verb) []cli.Flag {
	if v.Flags == nil {
		return outputFlags()
	}
	return append(v.Flags(), outputFlags()...)
}

func uses(v verb, flag string) bool {
	_, ok := cli.Find(flagsOf(v), flag)
	return ok
}

// TestEveryFieldHasAFlag holds that each row of the table of fields is a flag.
func TestEveryFieldHasAFlag(t *testing.T) {
	for _, field := range decode.Fields() {
		f, ok := cli.Find(allFlags(), field.Name)
		if !ok || f.Path != field.Path || f.Initial != field.Initial {
			t.Errorf("--%s: %+v", field.Name, f)
		}
	}
}

func TestFlagTable(t *testing.T) {
	all := allFlags()
	names, letters := map[string]bool{}, map[string]bool{}
	for _, f := range all {
		if names[f.Name] || f.Name != strings.ToLower(f.Name) {
			t.Errorf("--%s: twice in the table, or not in lower case", f.Name)
		}
		names[f.Name] = true
		if f.Short != "" && letters[f.Short] {
			t.Errorf("-%s: twice in the table", f.Short)
		}
		letters[f.Short] = true
		if f.Usage == "" || f.Group == "" {
			t.Errorf("--%s: no usage or group", f.Name)
		}
		if c := f.Choices(); c != nil && !slices.Contains(c, f.Initial) {
			t.Errorf("--%s: the default %q is not one of %q", f.Name, f.Initial, c)
		}
		for _, v := range verbs() {
			row, ok := cli.Find(flagsOf(v), f.Name)
			if f.Path != "" && ok != uses(v, configFlag) {
				t.Errorf("--%s sets a field, so it is for the verbs with a configuration: not so for %s", f.Name, v.Name)
			}
			if row.Name == outputFlag && v.Outputs != "" { // it has more forms
				row.Form = strings.TrimSuffix(row.Form, "|"+v.Outputs)
			}
			if diff := cmp.Diff(f, row); ok && diff != "" {
				t.Errorf("--%s means something else for %s:\n%s", f.Name, v.Name, diff)
			}
		}
		if name := f.Env(); !f.Once {
			known := func() decode.Flags { return decode.Flags{Names: []string{f.Name}} }
			given, _, err := decode.Environ([]string{name + "=15001"}, known, func(string) bool { return false })
			if err != nil || len(given) != 1 {
				t.Errorf("%s would be taken for a Service's variable: %v", name, err)
			}
		}
	}
}

func TestHelp(t *testing.T) {
	general := invoke(t, "", []string{"MESH_NONSENSE=1"}, "--help")
	if general.code != cli.ExitDone || general.stderr != "" {
		t.Fatalf("exit code %d, standard error %q", general.code, general.stderr)
	}
	for _, args := range [][]string{{"-h"}, {"help"}, {"help", "help"}, {"--foo", "--help"}} {
		if r := invoke(t, "", nil, args...); r.code != cli.ExitDone || r.out != general.out {
			t.Errorf("%q: exit code %d, not the general help:\n%s", args, r.code, r.out)
		}
	}
	for _, v := range verbs() {
		r := invoke(t, "", nil, v.Name, "--help")
		if r.code != cli.ExitDone {
			t.Errorf("%s --help: exit code %d", v.Name, r.code)
		}
		if other := invoke(t, "", nil, "help", v.Name); other.out != r.out {
			t.Errorf("help %s is not %s --help", v.Name, v.Name)
		}
		for _, f := range allFlags() {
			line := "\n  --" + f.Name + " "
			if f.Short != "" {
				line = "\n  -" + f.Short + ", --" + f.Name + " "
			}
			if shown, used := strings.Contains(r.out, line), uses(v, f.Name) || f.Name == "help"; shown != used {
				t.Errorf("%s --help: --%s shown: %t, used: %t", v.Name, f.Name, shown, used)
			}
			if !strings.Contains(general.out, line) {
				t.Errorf("--help: --%s is missing", f.Name)
			}
		}
	}
	for _, e := range exits() {
		if !strings.Contains(general.out, e.Meaning) {
			t.Errorf("--help: exit code %d is missing", e.Code)
		}
	}
	for line := range strings.Lines(general.out) {
		if n := len(strings.TrimSuffix(line, "\n")); n > 100 {
			t.Errorf("--help: a line of %d columns: %s", n, line)
		}
	}
	if r := invoke(t, "", nil, "help", "aply"); r.code != cli.ExitUsage ||
		!strings.Contains(r.stderr, `"aply" is not a verb`) {
		t.Errorf("help aply: exit code %d, %s", r.code, r.stderr)
	}
	if r := invoke(t, "", nil, "help", "apply", "check"); r.code != cli.ExitUsage ||
		!strings.Contains(r.stderr, `"check" is left over`) {
		t.Errorf("help apply check: exit code %d, %s", r.code, r.stderr)
	}
}

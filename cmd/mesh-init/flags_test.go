package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
)

// equalConfigs compares configurations, empty lists like absent ones.
func equalConfigs(a, b any) string {
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}, netip.AddrPort{}))
}

func mustCIDRs(t *testing.T, s string) intercept.CIDRs {
	t.Helper()
	c, err := intercept.ParseCIDRs(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestEveryFieldHasAFlag holds that each row of the table of fields is a flag.
func TestEveryFieldHasAFlag(t *testing.T) {
	for _, field := range decode.Fields() {
		f, ok := findFlag(flags(), field.Name)
		if !ok || f.field != field.Path || f.initial != field.Initial {
			t.Errorf("--%s: %+v", field.Name, f)
		}
	}
}

func TestFlagTable(t *testing.T) {
	all := flags()
	names := map[string]bool{}
	for _, f := range all {
		if names[f.name] || f.name != strings.ToLower(f.name) {
			t.Errorf("--%s: twice in the table, or not in lower case", f.name)
		}
		names[f.name] = true
		if f.usage == "" || f.group == "" || f.verbs == 0 {
			t.Errorf("--%s: no usage, group or verb", f.name)
		}
		if c := f.choices(); c != nil && !slices.Contains(c, f.initial) {
			t.Errorf("--%s: the default %q is not one of %q", f.name, f.initial, c)
		}
		if f.field != "" && f.verbs != configures {
			t.Errorf("--%s sets a field, so it is for the verbs with a configuration", f.name)
		}
		if f.env() != "" && isServiceLink(f.env(), "15001") {
			t.Errorf("%s would be taken for a Service's variable", f.env())
		}
	}
}

func TestHelp(t *testing.T) {
	general := invoke(t, "", []string{"MESH_NONSENSE=1"}, "--help")
	if general.code != exitDone || general.stderr != "" {
		t.Fatalf("exit code %d, standard error %q", general.code, general.stderr)
	}
	for _, args := range [][]string{{"-h"}, {"help"}, {"help", "help"}, {"--foo", "--help"}} {
		if r := invoke(t, "", nil, args...); r.code != exitDone || r.out != general.out {
			t.Errorf("%q: exit code %d, not the general help:\n%s", args, r.code, r.out)
		}
	}
	for _, v := range verbTable() {
		if v.verb == helpVerb {
			continue
		}
		r := invoke(t, "", nil, v.name, "--help")
		if r.code != exitDone {
			t.Errorf("%s --help: exit code %d", v.name, r.code)
		}
		if other := invoke(t, "", nil, "help", v.name); other.out != r.out {
			t.Errorf("help %s is not %s --help", v.name, v.name)
		}
		for _, f := range flags() {
			shown := strings.Contains(r.out, "\n  --"+f.name+" ")
			if uses := f.verbs&v.verb != 0; shown != uses {
				t.Errorf("%s --help: --%s shown: %t, used: %t", v.name, f.name, shown, uses)
			}
			if !strings.Contains(general.out, "\n  --"+f.name+" ") {
				t.Errorf("--help: --%s is missing", f.name)
			}
		}
	}
	for _, e := range exits() {
		if !strings.Contains(general.out, e.meaning) {
			t.Errorf("--help: exit code %d is missing", e.code)
		}
	}
	for line := range strings.Lines(general.out) {
		if n := len(strings.TrimSuffix(line, "\n")); n > 100 {
			t.Errorf("--help: a line of %d columns: %s", n, line)
		}
	}
	if r := invoke(t, "", nil, "help", "aply"); r.code != exitUsage || !strings.Contains(r.stderr, `"aply" is not a verb`) {
		t.Errorf("help aply: exit code %d, %s", r.code, r.stderr)
	}
	if r := invoke(t, "", nil, "help", "apply", "check"); r.code != exitUsage || !strings.Contains(r.stderr, `"check" is left over`) {
		t.Errorf("help apply check: exit code %d, %s", r.code, r.stderr)
	}
}

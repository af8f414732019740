package decode

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// equalConfigs compares configurations, empty lists like absent ones.
func equalConfigs(a, b any) string {
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
}

// TestEveryFieldIsInTheTable holds the table against the configuration: each field
// is in one row, and the default that the help names is the field's default.
func TestEveryFieldIsInTheTable(t *testing.T) {
	byField := map[string]Field{}
	for _, f := range Fields() {
		if _, twice := byField[f.Path]; twice && f.Path != "" {
			t.Errorf("%s has two rows", f.Path)
		}
		byField[f.Path] = f
	}
	delete(byField, "")
	defaults := intercept.Default()
	for _, path := range strict.Paths(reflect.TypeFor[intercept.Config]()) {
		f, ok := byField[path]
		if !ok {
			t.Errorf("%s has no row", path)
			continue
		}
		delete(byField, path)
		var c intercept.Config
		if err := SetField(&c, path, f.Initial); err != nil {
			t.Errorf("--%s %s: %v", f.Name, f.Initial, err)
			continue
		}
		want := strict.Lookup(reflect.ValueOf(&defaults).Elem(), path)
		got := strict.Lookup(reflect.ValueOf(&c).Elem(), path)
		if diff := equalConfigs(want.Interface(), got.Interface()); diff != "" {
			t.Errorf("--%s: the default in the help is not that of %s (-default +help):\n%s", f.Name, path, diff)
		}
	}
	for field, f := range byField {
		t.Errorf("--%s sets %s, which is no field", f.Name, field)
	}
}

// TestPlausible: what is refused before it is read, and the initial values are not.
func TestPlausible(t *testing.T) {
	for _, f := range Fields() {
		if err := f.Plausible(f.Initial); err != nil || f.Usage == "" || f.Name != strings.ToLower(f.Name) ||
			strings.Contains(f.Meaning(), "\n") {
			t.Errorf("%s: %v, %q", f.Name, err, f.Meaning())
		}
		for _, bad := range []string{"", " ", "-x", "--dns"} {
			if err := f.Plausible(bad); err == nil {
				t.Errorf("%s: %q is accepted", f.Name, bad)
			}
		}
		if c := f.Choices(); c != nil && (!slices.Contains(c, f.Initial) || f.Plausible("other") == nil) {
			t.Errorf("%s: choices %q", f.Name, c)
		}
	}
}

// TestNames: a deprecated name is one of the field's, after its own.
func TestNames(t *testing.T) {
	f := Field{Name: "new", Deprecated: []string{"old"}}
	if got := f.Names(); !slices.Equal(got, []string{"new", "old"}) || f.Env() != "MESH_NEW" {
		t.Errorf("%q, %s", got, f.Env())
	}
	seen := map[string]bool{}
	for _, f := range Fields() {
		for _, name := range f.Names() {
			if seen[name] {
				t.Errorf("two fields are named %s", name)
			}
			seen[name] = true
		}
	}
}

// TestChangedItems: of lists that differ, which items are in one of them alone.
func TestChangedItems(t *testing.T) {
	from, to := intercept.Default(), intercept.Default()
	for path, texts := range map[string][2]string{
		"outbound.excludeCIDRs": {"10.0.0.0/8,192.168.0.0/16", "192.168.0.0/16"},
		"outbound.excludePorts": {"440-450", "440-442,444-450"},
		"outbound.exclude":      {"none", "tcp 10.1.2.3:443 uid=1000"},
		"dns.mode":              {"off", "all"}, // no list
	} {
		for i, c := range []*intercept.Config{&from, &to} {
			if err := SetField(c, path, texts[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := map[string][2]string{
		"outbound.excludeCIDRs": {"10.0.0.0/8", ""},
		"outbound.excludePorts": {"440-450", "440-442 444-450"},
		"outbound.exclude":      {"", "tcp 10.1.2.3:443 uid=1000"},
	}
	got := map[string][2]string{}
	for _, items := range ChangedItems(from, to) {
		got[items.Field.Path] = [2]string{strings.Join(items.Removed, " "), strings.Join(items.Added, " ")}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

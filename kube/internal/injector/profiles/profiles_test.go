package profiles

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/podspec/inject"
)

func data(text string) map[string]string { return map[string]string{Key: text} }

func TestStore(t *testing.T) {
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if p, err := s.Get("haproxy"); err != nil || p.Name != "haproxy" {
		t.Error(p.Name, err)
	}
	if _, err := s.Get("mine"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "envoy, haproxy, haproxy-dns") {
		t.Error(err)
	}
	good := inject.ShippedText("envoy")

	// A good one, the same again, a bad one, and a good one again.
	for _, step := range []struct {
		text    string
		changed bool
		wrong   string
	}{
		{good, true, ""}, {good, false, ""}, {"nam: x", true, "nam: unknown field; did you mean name? (from profile.yaml, line 1)"},
		{"nam: x", false, "nam: unknown field"}, {good, true, ""},
	} {
		changed, err := s.Put("mine", data(step.text))
		if changed != step.changed || (err == nil) != (step.wrong == "") || err != nil && !strings.Contains(err.Error(), step.wrong) {
			t.Errorf("%.20q: %v, %v", step.text, changed, err)
		}
		if p, err := s.Get("mine"); err != nil || p.Name != "mine" || !slices.Contains(p.Sidecars(), "envoy") {
			t.Errorf("after %.20q: %v, %v", step.text, p.Name, err)
		}
		if bad := s.Bad(); (bad["mine"] != nil) != (step.wrong != "") {
			t.Errorf("after %.20q: bad are %v", step.text, bad)
		}
	}

	// One that was never good, and hides one that is shipped.
	if _, err := s.Put("haproxy", map[string]string{"haproxy.yaml": good}); err == nil ||
		!strings.Contains(err.Error(), `no field profile.yaml, but ["haproxy.yaml"]`) {
		t.Error(err)
	}
	if _, err := s.Get("haproxy"); err == nil {
		t.Error("a bad profile is replaced by the one that is shipped")
	}
	if _, err := s.Put("large", data(strings.Repeat("#", MaxText+1))); err == nil {
		t.Error("a profile of any size")
	}
	if got := strings.Join(s.Names(), " "); got != "envoy haproxy haproxy-dns large mine" {
		t.Error(got)
	}
	if _, err := s.Get("none"); err == nil || !strings.HasSuffix(err.Error(), "; there are: envoy, haproxy-dns, mine") {
		t.Errorf("those that cannot be had are no advice: %v", err)
	}
	s.Delete("haproxy")
	s.Delete("mine")
	if _, err := s.Get("haproxy"); err != nil {
		t.Error(err)
	}
	if _, err := s.Get("mine"); err == nil {
		t.Error("it is deleted")
	}
}

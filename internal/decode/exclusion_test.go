package decode

import (
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// FuzzParseExclusions holds that the parser gives an error or exclusions, and
// not both; that what it accepts is valid; and that its text form means it.
func FuzzParseExclusions(f *testing.F) {
	for _, seed := range []string{
		"none", "tcp :80", "udp 10.0.0.0/8:5000-6000 uid=1000-1999; [fd00::/8]:53", "fd00::/8,10.0.0.1", "uid=1 gid=2,3-4",
		"*:*", "[*]:53", "[,]:1", "fd00::1:53", "tcp tcp", ";;", "[[::1]]:2", "a=b=c", "tcp=1", "10.0.0.0/8:1:2",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var list []intercept.Exclusion
		err := strict.SetText(&list, text)
		if err != nil {
			return
		}
		if len(list) == 0 && strings.TrimSpace(text) != "none" {
			t.Fatalf("%q is nothing", text)
		}
		c := intercept.Default()
		c.Outbound.Exclude = list
		if err := c.Validate(); err != nil {
			t.Fatalf("%q is accepted, but %v", text, err)
		}
		var again []string
		for _, e := range list {
			again = append(again, e.String())
		}
		if len(again) == 0 {
			return
		}
		var back []intercept.Exclusion
		if err := strict.SetText(&back, strings.Join(again, ";")); err != nil {
			t.Fatalf("%q: its text form %q: %v", text, again, err)
		}
		for i := range list {
			if got := back[i].String(); got != again[i] {
				t.Fatalf("%q became %q", again[i], got)
			}
		}
	})
}

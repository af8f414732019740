//go:build linux

package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TestReferenceFromOthers: somebody's rule leads to a chain of ours. Remove names it, and takes out neither family.
func TestReferenceFromOthers(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		for _, command := range []string{"-t nat -A THEIRS -p tcp -j MESH_OUTPUT", "-t nat -A OUTPUT -p udp -j MESH_OUTPUT"} {
			s := newSite(t, Options{Variant: v})
			s.restore(t, "*nat\n:THEIRS - [0:0]\nCOMMIT\n")
			s.mustApply(t, compileConfig(t, intercept.Default()), ruleset.Created)
			s.iptables(t, ruleset.IPv6, command)
			was := s.saved(t)
			removed, err := s.remove()
			ref, is := errors.AsType[*beside.ReferenceError](err)
			if removed || !is || ref.To != "MESH_OUTPUT" || !strings.Contains(ref.In, "IPv6") ||
				!strings.Contains(ref.Rule, "-j MESH_OUTPUT") {
				t.Errorf("%s: %t, %v", command, removed, err)
			}
			if diff := cmp.Diff(was, s.saved(t)); diff != "" {
				t.Errorf("%s: something was removed (-):\n%s", command, diff)
			}
			s.iptables(t, ruleset.IPv6, strings.Replace(command, "-A", "-D", 1))
			s.mustRemove(t)
		}
	})
}

const meshOfOthers = `*raw
:ISTIO_OUTPUT_DNS - [0:0]
-A OUTPUT -j ISTIO_OUTPUT_DNS
-A ISTIO_OUTPUT_DNS -p udp -m udp --dport 53 -j CT --zone 2
COMMIT
*nat
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
:THEIRS - [0:0]
-A OUTPUT -p udp -m udp --dport 99 -j THEIRS
[3:180] -A OUTPUT -j ISTIO_OUTPUT
-A OUTPUT -p udp -m udp --dport 98 -m comment --comment "say \"ISTIO_OUTPUT\"" -j THEIRS
[2:120] -A ISTIO_OUTPUT -p tcp -m comment --comment "a \"b\"" -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
-A THEIRS -j RETURN
COMMIT
`

// TestRemoveForeign takes a mesh's rules out and nothing else. If the second family fails, the first is as it was, and
// so are both when it is undone.
func TestRemoveForeign(t *testing.T) {
	istio, _ := beside.MeshOf("istio")
	aloneEach(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		remove := func() (undo func(context.Context) error, err error) {
			err = s.Do(func() error { undo, err = s.b.RemoveForeign(t.Context(), istio); return err })
			return undo, err
		}
		s.restore(t, meshOfOthers)
		was := s.saved(t)
		wrap(t, "ip6tables-"+string(v)+"-restore",
			`[ $n != 1 ] && exec REAL "$@"; echo "$0: line 1 failed: no luck" >&2; exit 1`)
		s.b = s.open(t, Options{Variant: v})
		if _, err := remove(); err == nil || !strings.Contains(err.Error(), "no luck") {
			t.Error(err)
		}
		uncounted := func(text string) string {
			if v == NFT { // ip6tables-nft-restore of 1.8.9 takes no counters
				return counts.ReplaceAllString(text, "")
			}
			return text
		}
		if diff := cmp.Diff(uncounted(was), uncounted(s.saved(t))); diff != "" {
			t.Errorf("it is not as it was (-):\n%s", diff)
		}
		undo, err := remove()
		if err != nil {
			t.Fatal(err)
		}
		if now := s.saved(t); strings.Contains(now, "ISTIO_OUTPUT -") || strings.Contains(now, "-j ISTIO") ||
			strings.Count(now, "-j THEIRS") != 4 {
			t.Errorf("%s", now)
		}
		if err := s.Do(func() error { return undo(t.Context()) }); err != nil {
			t.Fatal(err)
		}
		sorted := func(text string) []string { // chains come in the order in which they were made
			lines := strings.Split(uncounted(text), "\n")
			slices.Sort(lines)
			return lines
		}
		if diff := cmp.Diff(sorted(was), sorted(s.saved(t))); diff != "" {
			t.Errorf("it is not undone (-):\n%s", diff)
		}
	})
}

// TestLegacyChains: what the kernel has is read without a program, as it was written.
func TestLegacyChains(t *testing.T) {
	s := newSite(t, Options{Variant: Legacy})
	read := func() (all []string) {
		for _, f := range families() {
			err := s.Do(func() error {
				chains, err := LegacyChains(f)
				for _, c := range chains {
					line := fmt.Sprintf("%s %s %s", c.Family, c.Table, c.Name)
					if c.Base {
						line += fmt.Sprintf(" %s %s %d %t", c.Type, c.Hook, c.Priority, c.Drops)
					}
					for _, r := range c.Rules {
						line += fmt.Sprintf(" %v%v%q", r.Acts, r.To, r.Comment)
					}
					all = append(all, line)
					want := map[string]string{"filter DOWN": "ACCEPT", "mangle OUTPUT": "MARK"}[c.Table+" "+c.Name]
					if got := strings.Join(c.Else, " "); got != want {
						t.Errorf("chain %s of %s does %q, want %q", c.Name, c.Table, got, want)
					}
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	if all := read(); len(all) > 0 {
		t.Errorf("of nothing: %q", all)
	}
	s.restore(t, meshOfOthers)
	s.restore(t, `*raw
-A PREROUTING -p tcp -m tcp --dport 1 -m comment --comment "cilium: x" -j CT --notrack
COMMIT
*mangle
-A PREROUTING -p tcp -j TPROXY --on-port 15006 --tproxy-mark 0x539
-A OUTPUT -j MARK --set-mark 1
COMMIT
*filter
:FORWARD DROP [0:0]
:DOWN - [0:0]
-A INPUT -p tcp -j DROP
-A OUTPUT -p tcp -g DOWN
-A DOWN -p udp -j ACCEPT
-A DOWN -p tcp -j REJECT
COMMIT
`)
	var want []string
	for _, family := range []string{"ip", "ip6"} {
		for _, line := range []string{
			"filter ", `filter INPUT filter input 0 false [discard][]""`, "filter FORWARD filter forward 0 true",
			`filter OUTPUT filter output 0 false [][DOWN]""`, `filter DOWN [discard][]""`,
			"mangle ", `mangle PREROUTING filter prerouting -150 false [tproxy][]""`, "mangle INPUT filter input -150 false",
			"mangle FORWARD filter forward -150 false", "mangle OUTPUT route output -150 false",
			"mangle POSTROUTING filter  -150 false",
			"raw ", `raw PREROUTING filter prerouting -300 false [notrack][]"cilium: x"`,
			`raw OUTPUT filter output -300 false [][ISTIO_OUTPUT_DNS]""`, `raw ISTIO_OUTPUT_DNS [zone][]""`,
			"nat ", "nat PREROUTING nat prerouting -100 false", "nat INPUT nat input 100 false",
			`nat OUTPUT nat output -100 false [][THEIRS]"" [][ISTIO_OUTPUT]"" [][THEIRS]"say \"ISTIO_OUTPUT\""`,
			"nat POSTROUTING nat postrouting 100 false", `nat ISTIO_OUTPUT [][ISTIO_REDIRECT]"a \"b\""`,
			`nat ISTIO_REDIRECT [redirect][]""`, "nat THEIRS",
		} {
			want = append(want, family+" "+line)
		}
	}
	if diff := cmp.Diff(sortedLines(want), sortedLines(read())); diff != "" {
		t.Error(diff)
	}
}

func sortedLines(all []string) []string { return slices.Sorted(slices.Values(all)) }

// FuzzEntries: any bytes are read without a panic, in bounded time.
func FuzzEntries(f *testing.F) {
	f.Add([]byte("x"), true)
	f.Add(make([]byte, 400), false)
	f.Fuzz(func(t *testing.T, data []byte, six bool) {
		family := ruleset.IPv4
		if six {
			family = ruleset.IPv6
		}
		info := data[:min(len(data), 84)]
		legacyChains(family, "nat", info, data[len(info):])
	})
}

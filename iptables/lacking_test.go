//go:build linux

package iptables

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TestExtensions: what the default rules ask of xtables, and who provides it.
func TestExtensions(t *testing.T) {
	p := must(compile(compileConfig(t, intercept.Default()), ruleset.IPv4, Options{Variant: Legacy}, everyone()))
	var got []string
	for _, e := range p.extensions() {
		got = append(got, e.String()+": "+strings.Join(e.modules(ruleset.IPv4), " "))
	}
	want := []string{
		"match addrtype: xt_addrtype", "match comment: xt_comment", "match conntrack: xt_conntrack",
		"match length: xt_length", "match multiport: xt_multiport", "match owner: xt_owner", "match tcp: xt_tcpudp",
		"match u32: xt_u32", "target REDIRECT: xt_REDIRECT", "target REJECT: ipt_REJECT",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestLacking: of a refusal, what the kernel lacks is named, once, and nothing where it lacks nothing.
func TestLacking(t *testing.T) {
	p := must(compile(compileConfig(t, intercept.Default()), ruleset.IPv6, Options{Variant: Legacy}, everyone()))
	refusal := errors.New("iptables-restore: line 9 failed")
	err := p.lacking(refusal, func(e extension) bool { return e.name != "owner" && e.name != "REJECT" })
	wrong, ok := errors.AsType[*ruleset.ModulesError](err)
	if !ok || !errors.Is(err, ruleset.ErrUnsupported) || !errors.Is(err, refusal) {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ip6t_REJECT", "xt_owner"}, wrong.Modules); diff != "" {
		t.Error(diff)
	}
	if text := err.Error(); strings.Count(text, "xt_owner") != 1 || strings.Count(text, "the kernel lacks") != 1 {
		t.Error(text)
	}
	r := rule{words: []string{"-p", "tcp", "-j", "MESH_ANY"}}
	if got := r.extensions(); len(got) > 0 {
		t.Errorf("to ask for a protocol and to go to a chain of ours takes %v", got)
	}
	if err := p.lacking(refusal, func(extension) bool { return true }); err != refusal {
		t.Error(err)
	}
}

// TestLackingInKernel: this kernel has what the default rules ask for, and not what no kernel has.
func TestLackingInKernel(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		refusal := errors.New("line 9 failed")
		for _, f := range families() {
			p := must(compile(compileConfig(t, intercept.Default()), f, Options{Variant: v}, everyone()))
			var whole, lacks error
			if err := s.Do(func() error {
				whole = p.why(Options{Variant: v}, refusal)
				p.tables[0].chains[0].rules[0].words = []string{"-m", "nomatch", "-j", "NOTARGET"}
				lacks = p.why(Options{Variant: v}, refusal)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if whole != refusal {
				t.Errorf("%s: %v", f, whole)
			}
			wrong, ok := errors.AsType[*ruleset.ModulesError](lacks)
			if !ok {
				t.Fatalf("%s: %v", f, lacks)
			}
			if diff := cmp.Diff([]string{"xt_NOTARGET", "xt_nomatch"}, wrong.Modules); diff != "" {
				t.Errorf("%s: %s", f, diff)
			}
		}
	})
}

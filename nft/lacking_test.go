//go:build linux

package nft

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TestModulesOf: what the kernel looks up by name is provided by these modules (modinfo's alias nft-expr-…).
func TestModulesOf(t *testing.T) {
	for _, test := range []struct {
		family     nftables.TableFamily
		expression string
		want       string
	}{
		{nftables.TableFamilyINet, "counter", "nft_counter"},
		{nftables.TableFamilyINet, "redir", "nft_redir"},
		{nftables.TableFamilyINet, "reject", "nft_reject_inet"},
		{nftables.TableFamilyIPv4, "reject", "nft_reject_ipv4"},
		{nftables.TableFamilyIPv6, "reject", "nft_reject_ipv6"},
		{nftables.TableFamilyIPv6, "socket", "nft_socket nf_socket_ipv4 nf_socket_ipv6"},
	} {
		if got := strings.Join(modulesOf(test.family, test.expression), " "); got != test.want {
			t.Errorf("%s in tables of family %d: %s, want %s", test.expression, test.family, got, test.want)
		}
	}
}

// TestLacking: a kernel without what a rule needs refuses it, and the error names the module, once, whichever layout is
// tried. Here it is an expression that no kernel has.
func TestLacking(t *testing.T) {
	ns, b := namespace(t)
	before := list(t, ns)
	for _, lay := range []layout{oneTable, twoTables} {
		prog, err := compile(compileConfig(t, intercept.Default()), lay)
		if err != nil {
			t.Fatal(err)
		}
		c := &prog[0].chains[0]
		r := &c.rules[len(c.rules)-1]
		var all []netlink.Attribute
		for _, name := range []string{"none", "counter", "neither"} {
			data, err := expression(name)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, netlink.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: data})
		}
		if r.encoded, err = netlink.MarshalAttributes(all); err != nil {
			t.Fatal(err)
		}
		err = b.blame(prog, unix.ENOENT)
		wrong, ok := errors.AsType[*ruleset.ModulesError](err)
		if !ok || !errors.Is(err, ruleset.ErrUnsupported) || !errors.Is(err, unix.ENOENT) {
			t.Fatalf("%v", err)
		}
		if diff := cmp.Diff([]string{"nft_none", "nft_neither"}, wrong.Modules); diff != "" {
			t.Error(diff)
		}
		if rule, ok := errors.AsType[*ruleset.RuleError](err); !ok || rule.Rule != r.id {
			t.Errorf("%v does not name rule %s", err, r.id)
		}
		if text := err.Error(); strings.Count(text, "nft_none") != 1 || strings.Count(text, "kernel lacks") != 1 ||
			strings.Contains(text, "nft_counter") {
			t.Errorf("%s", text)
		}
	}
	if diff := cmp.Diff(before, list(t, ns)); diff != "" {
		t.Errorf("to find out changed the rules:\n%s", diff)
	}
}

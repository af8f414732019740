package main

import (
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/iptables"
)

// TestOthersText: other people's rules, and what could not be listed, in at most 100 columns.
func TestOthersText(t *testing.T) {
	if text := othersText(dataplane.Others{}); text != "" {
		t.Errorf("%q", text)
	}
	text := othersText(dataplane.Others{
		Rules: []iptables.OtherRule{
			{Family: "IPv4", Table: "nat", Chain: "OUTPUT", Rule: "-m addrtype --dst-type LOCAL -j DOCKER", Earlier: true,
				Packets: 12, Bytes: 720},
			{Family: "IPv6", Table: "filter", Chain: "INPUT",
				Rule: "-m comment --comment \"a\nb\" " + strings.Repeat("-m x ", 30) + "-j DROP"},
		},
		Error: "IPv6: table raw: locked",
	})
	for _, want := range []string{
		"\nPACKETS  BYTES  PLACE        FAMILY  TABLE   CHAIN   RULE OF OTHERS\n",
		"\n12       720    before ours  IPv4    nat     OUTPUT  -m addrtype --dst-type LOCAL -j DOCKER\n",
		"\n0        0                   IPv6    filter  INPUT   -m comment",
		"Not all rules of others could be listed: IPv6: table raw: locked\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("not in the text: %q\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if len(line) > 101 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
}

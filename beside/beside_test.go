package beside

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func isOurs(chain string) bool { return strings.HasPrefix(chain, "MESH_") }

var (
	overNFT   = Ours{NAT: -199, IsOurs: isOurs}
	inXTables = Ours{NAT: -100, Shared: true, IsOurs: isOurs}
)

// natAt is a base chain of NAT with rules.
func natAt(table, hook string, priority int32, rules ...Rule) Chain {
	return Chain{Family: "ip", Table: table, Name: strings.ToUpper(hook), Base: true, Type: "nat", Hook: hook,
		Priority: priority,
		Rules:    rules}
}

func does(acts ...Act) Rule { return Rule{Acts: acts} }

func to(chains ...string) Rule { return Rule{To: chains} }

func at(c Chain, typ, hook string, priority int32) Chain {
	c.Base, c.Type, c.Hook, c.Priority = true, typ, hook, priority
	return c
}

// TestEffects: what one chain does to what ours capture.
func TestEffects(t *testing.T) {
	filter := func(hook string, priority int32, rules ...Rule) Chain {
		return Chain{Family: "inet", Table: "t", Name: "c", Base: true, Type: "filter", Hook: hook, Priority: priority,
			Rules: rules}
	}
	here := func(r Rule) Rule {
		r.Acts, r.Local = []Act{Redirect}, true
		return r
	}
	dormant := natAt("t", "output", -300, does(Redirect))
	dormant.Dormant = true
	drops := filter("input", 0)
	drops.Drops = true
	lazy := natAt("t", "output", -100)
	registered := func(when Registered, priority int32) Chain {
		c := natAt("t", "output", priority, does(DNAT))
		c.Registered = when
		return c
	}
	for i, tt := range []struct {
		chain Chain
		ours  Ours
		want  string
	}{
		{natAt("t", "output", -100, does(DNAT)), overNFT, "after, never reached"},
		{natAt("t", "prerouting", -198, does(Redirect)), overNFT, "after, never reached"},
		{natAt("t", "output", -199, does(DNAT)), overNFT, "before or after, may take"},
		{registered(BeforeOurs, -199), overNFT, "after, never reached"},
		{registered(AfterOurs, -199), overNFT, "before, takes"},
		{registered(PerhapsAfterOurs, -199), overNFT, "before or after, may take"},
		{registered(BeforeOurs, -199), inXTables, "before, takes"}, // there ours are at -100
		{registered(BeforeOurs, -100), inXTables, "before or after, may take"},
		{natAt("t", "output", -200, does(DNAT)), overNFT, "before, takes"},
		{natAt("t", "output", -100, does(DNAT)), inXTables, "before or after, may take"},
		{natAt("t", "output", -101, does(DNAT)), inXTables, "before, takes"},
		{natAt("t", "output", -99, does(DNAT)), inXTables, "after, never reached"},
		{natAt("nat", "output", -100, does(DNAT), to("MESH_OUTPUT")), inXTables, "before, takes"},
		{natAt("nat", "output", -100, to("MESH_OUTPUT"), does(DNAT)), inXTables, "after, never reached"},
		{natAt("nat", "output", -100, to("MESH_OUTPUT")), inXTables, ""},
		{natAt("nat", "output", -100, to("MESH_OUTPUT")), overNFT, "after, harmless"},
		{natAt("t", "input", 100, does(DNAT)), overNFT, "after, harmless"},
		{natAt("t", "output", -100, here(Rule{})), overNFT, "after, takes the rest"},
		{natAt("t", "output", -100, here(Rule{Called: []uint16{443}})), overNFT, "after, takes the rest"},
		{natAt("t", "output", -100, here(Rule{Dst: true})), overNFT, "after, never reached"},
		{natAt("t", "output", -100, here(Rule{})), inXTables, "before or after, may take"},
		{natAt("t", "prerouting", -100, here(Rule{})), overNFT, "after, takes the rest"},
		{natAt("t", "prerouting", -100, here(Rule{Called: []uint16{80}})), overNFT, "after, never reached"},
		{natAt("nat", "output", -100, to("MESH_OUTPUT"), here(Rule{})), inXTables, "after, takes the rest"},
		{natAt("t", "output", -100, to("nowhere")), overNFT, "after, harmless"},
		{natAt("t", "output", -100, does(Discard)), overNFT, "after, may discard"},
		{lazy, overNFT, ""},
		{dormant, overNFT, "before, asleep"},
		{filter("prerouting", -300, does(NoTrack)), overNFT, "before, untracks"},
		{filter("prerouting", -150, does(NoTrack)), overNFT, "before, harmless"}, // conntrack knows it by then
		{filter("prerouting", -150, does(TProxy)), overNFT, "before, takes"},
		{filter("prerouting", 0, does(TProxy)), overNFT, "after, takes"},
		{filter("output", -300, does(Rewrite)), overNFT, "before, takes"},
		{filter("output", -300, does(Zone)), overNFT, "before, zones"},
		{filter("output", 0, does(Zone)), overNFT, "after, harmless"},
		{filter("forward", 0, does(Queue)), overNFT, "after, may discard"},
		{drops, overNFT, "after, may discard"},
		{filter("", -300, does(NoTrack)), overNFT, ""},
		{filter(Ingress, 0, does(Discard)), overNFT, "before, may discard"},
		{filter(Ingress, 100, does(Rewrite)), overNFT, "before, takes"},
		{filter(Ingress, 0, does(Forward)), overNFT, "before, takes"},
		{filter(Ingress, 0, to("nowhere")), overNFT, "before, harmless"},
		{at(Chain{Family: "netdev", Table: "t", Name: "c", Rules: []Rule{does(Discard)}}, "filter", Egress, -300), overNFT,
			"after, may discard"},
		{filter(Egress, -300, does(Forward, Rewrite)), overNFT, "after, harmless"},
		{at(Chain{Family: "bridge", Table: "t", Name: "c", Rules: []Rule{does(DNAT)}}, "nat", "output", -300), overNFT, ""},
	} {
		var got []string
		for _, f := range Survey([]Chain{tt.chain}, tt.ours) {
			got = append(got, fmt.Sprintf("%s, %s", f.Asked, f.Effect))
			if w := f.Warning(); (w != "") != slices.Contains([]Effect{Takes, MayTake, Untracks, TakesRest}, f.Effect) || f.Says() == "" {
				t.Errorf("%d: warns %q of %s", i, w, f.Effect)
			}
		}
		if got := strings.Join(got, "; "); got != tt.want {
			t.Errorf("%d, %+v: %q, want %q", i, tt.chain, got, tt.want)
		}
	}
}

// TestSurveyFollowsConditions: a condition on the destination holds for the chains to which a rule leads, unless another
// leads there without one. What the rules ask of packets is known of the chain.
func TestSurveyFollowsConditions(t *testing.T) {
	narrow := Rule{To: []string{"X"}, Dst: true, Dsts: []netip.Addr{netip.MustParseAddr("203.0.113.7")}}
	x := Chain{Family: "ip", Table: "t", Name: "X", Rules: []Rule{
		{Acts: []Act{Redirect}, Local: true, Ports: []uint16{9999}, Called: []uint16{80, 443}}}}
	for want, rules := range map[Effect][]Rule{NeverReached: {narrow}, TakesRest: {narrow, to("X")}} {
		all := Survey([]Chain{natAt("t", "output", -100, rules...), x}, overNFT)
		if len(all) != 1 || all[0].Effect != want || !slices.Equal(all[0].Called[:2], []uint16{80, 443}) ||
			all[0].Ports[0] != 9999 || !slices.Equal(all[0].Dsts, narrow.Dsts) || !all[0].TakesLetGo() ||
			!all[0].Translates() {
			t.Errorf("%s: %+v", want, all)
		}
	}
}

// TestSurveyFollows rules to all chains of the same table that they can lead to, and says whose they are, in the order
// in which the kernel asks.
func TestSurveyFollows(t *testing.T) {
	legacy := natAt("nat", "prerouting", -100, to("KUBE-SERVICES"))
	legacy.Legacy = true
	sub := func(table, name string, rules ...Rule) Chain {
		return Chain{Family: "ip", Table: table, Name: name, Rules: rules}
	}
	legacySub := sub("nat", "KUBE-SERVICES", does(DNAT))
	legacySub.Legacy = true
	chains := []Chain{
		{Family: "ip", Table: "nat"},
		natAt("nat", "output", -100, to("DOCKER"), Rule{To: []string{"CILIUM_OUTPUT_nat"}, Comment: "cilium-feeder: x"}),
		natAt("nat", "prerouting", -100, to("ISTIO_INBOUND")),
		sub("nat", "DOCKER", to("LOOP")), sub("nat", "LOOP", to("DOCKER"), does(DNAT)),
		sub("nat", "CILIUM_OUTPUT_nat"),
		sub("nat", "ISTIO_INBOUND", to("ISTIO_IN_REDIRECT")), sub("nat", "ISTIO_IN_REDIRECT", does(Redirect)),
		at(Chain{Family: "ip", Table: "filter", Name: "INPUT", Rules: []Rule{does(Discard)}}, "filter", "input", 0),
		at(Chain{Family: "ip", Table: "kube-proxy", Name: "nat", Rules: []Rule{{Mapped: true}}}, "nat", "output", -110),
		sub("kube-proxy", "service-x", does(DNAT)),
		at(Chain{Family: "inet", Table: "raw", Name: "c", Rules: []Rule{does(NoTrack)}}, "filter", "prerouting", -300),
		legacy, legacySub,
	}
	all := Survey(chains, overNFT)
	var got []string
	for _, f := range all {
		got = append(got, fmt.Sprintf("%s %s %v %v %s", f.Hook, f.Name(), f.Owners, f.Acts, f.Effect))
	}
	want := []string{
		"prerouting chain c of table inet raw [] [notrack] untracks",
		"prerouting chain PREROUTING of legacy table ip nat [kube-proxy] [dnat] never reached",
		"prerouting chain PREROUTING of table ip nat [Istio] [redirect] never reached",
		"input chain INPUT of table ip filter [] [discard] may discard",
		"output chain nat of table ip kube-proxy [kube-proxy] [dnat] never reached",
		"output chain OUTPUT of table ip nat [Cilium Docker] [dnat] never reached",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if m := Meshes(all); len(m) != 1 || m[0].Name != "istio" || m[0].Title != "Istio" {
		t.Errorf("%+v", m)
	}
	// What sleeps is not in force, and a chain to which nothing leads is not either.
	for i := range chains {
		chains[i].Dormant = true
	}
	if m := Meshes(Survey(chains, overNFT)); len(m) > 0 {
		t.Errorf("dormant: %+v", m)
	}
	if m := Meshes(Survey([]Chain{natAt("nat", "output", -100, does(DNAT)), sub("nat", "ISTIO_OUTPUT", does(DNAT))},
		overNFT)); len(m) > 0 {
		t.Errorf("left alone: %+v", m)
	}
}

// TestRemoval: what bears the mesh's names goes, and what leads there from built-in chains. A rule of somebody else's
// that leads there is named.
func TestRemoval(t *testing.T) {
	kuma, known := MeshOf("kuma")
	if _, unknown := MeshOf("other"); !known || unknown {
		t.Fatal(known, unknown)
	}
	nobodys := func(string) bool { return false }
	mine := Chain{Family: "ip", Table: "nat", Name: "MINE", Rules: []Rule{does(DNAT)}}
	chains := []Chain{
		{Family: "ip", Table: "nat"},
		natAt("nat", "output", -100, Rule{Handle: 7, To: []string{"KUMA_MESH_OUTBOUND"}},
			Rule{Handle: 8, To: []string{"MINE"}},
			Rule{Handle: 9, Comment: "kuma/mesh/transparent/proxy/dns"}),
		{Family: "ip", Table: "nat", Name: "KUMA_MESH_OUTBOUND", Rules: []Rule{to("KUMA_MESH_OUTBOUND_REDIRECT")}},
		{Family: "ip", Table: "nat", Name: "KUMA_MESH_OUTBOUND_REDIRECT", Legacy: true},
		mine,
	}
	r, err := kuma.Removal(chains, nobodys)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"chain KUMA_MESH_OUTBOUND of table ip nat, with its rules",
		"chain KUMA_MESH_OUTBOUND_REDIRECT of legacy table ip nat, with its rules",
		"in chain OUTPUT of table ip nat, the rule that leads to KUMA_MESH_OUTBOUND",
		`in chain OUTPUT of table ip nat, the rule with the comment "kuma/mesh/transparent/proxy/dns"`,
	}
	if diff := cmp.Diff(want, r.Lines()); diff != "" {
		t.Error(diff)
	}
	if lines := r.Of(true).Lines(); len(lines) != 1 || lines[0] != want[1] || r.Of(true).IsEmpty() {
		t.Errorf("legacy: %q", lines)
	}
	mine.Rules = []Rule{to("KUMA_MESH_OUTBOUND")}
	_, err = kuma.Removal(append(chains, mine), nobodys)
	if ref, is := errors.AsType[*ReferenceError](err); !is || ref.To != "KUMA_MESH_OUTBOUND" ||
		!strings.Contains(ref.In, "MINE") {
		t.Error(err)
	}
	istio, _ := MeshOf("istio")
	if r, err := istio.Removal(chains, nobodys); err != nil || !r.IsEmpty() {
		t.Errorf("%+v, %v", r, err)
	}
	r, _ = istio.Removal([]Chain{{Family: "inet", Table: "istio-proxy-nat"},
		{Family: "inet", Table: "istio-proxy-nat", Name: "output"}}, nobodys)
	if lines := r.Lines(); len(lines) != 1 || lines[0] != "table inet istio-proxy-nat, with all that is in it" {
		t.Errorf("%q", lines)
	}
}

// TestStrange: what a mesh's programs do not write for this proxy is named.
func TestStrange(t *testing.T) {
	istio, _ := MeshOf("istio")
	in := func(rules ...Rule) []Chain {
		return []Chain{natAt("nat", "output", -100, to("ISTIO_OUTPUT"), to("MINE")),
			{Family: "ip", Table: "nat", Name: "ISTIO_OUTPUT", Rules: rules},
			{Family: "ip", Table: "nat", Name: "MINE", Rules: []Rule{{Acts: []Act{DNAT}}}}}
	}
	redirect := func(port uint16) Rule { return Rule{Acts: []Act{Redirect}, Ports: []uint16{port}} }
	for _, test := range []struct {
		rules []Rule
		drops bool
		want  string
	}{
		{nil, false, ""},
		{[]Rule{redirect(15001), to("ISTIO_REDIRECT"), {Acts: []Act{Zone}}}, false, ""},
		{[]Rule{redirect(15006)}, false, "port 15006"},
		{[]Rule{{Acts: []Act{Redirect}}}, false, "redirect"},
		{[]Rule{{Acts: []Act{DNAT}}}, false, "dnat"},
		{[]Rule{{Acts: []Act{Discard}}}, false, "discard"},
		{[]Rule{{Acts: []Act{Discard}}}, true, ""},
		{[]Rule{to("MINE")}, false, "leads to a chain"},
		{[]Rule{{Mapped: true}}, false, "leads to a chain"},
	} {
		got := istio.Strange(in(test.rules...), []uint16{15001}, test.drops)
		if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
			t.Errorf("%+v: %q, should have %q", test.rules, got, test.want)
		}
	}
	chain := func(table, name string, does ...string) Chain {
		return Chain{Family: "ip", Table: table, Name: name, Else: does}
	}
	guest, redirect15001 := to("ISTIO_REDIRECT"), chain("nat", "ISTIO_REDIRECT")
	guest.Interfaces = []string{"net1"}
	output := chain("nat", "ISTIO_OUTPUT")
	output.Rules = []Rule{to("ISTIO_REDIRECT")}
	for want, chains := range map[string][]Chain{
		"not: ACCEPT": {chain("nat", "ISTIO_OUTPUT", "ACCEPT")},
		"not: MARK":   {chain("nat", "ISTIO_OUTPUT", "MARK")},
		"not: LOG":    {chain("mangle", "ISTIO_DIVERT", "MARK", "ACCEPT", "LOG")},
		"leads to ISTIO_REDIRECT, past": {natAt("nat", "output", -100, to("ISTIO_OUTPUT"), to("ISTIO_REDIRECT")), output,
			redirect15001},
		"": {chain("mangle", "ISTIO_DIVERT", "MARK", "ACCEPT"), chain("nat", "MINE", "ACCEPT", "LOG"), output, redirect15001,
			natAt("nat", "output", -100, to("ISTIO_OUTPUT")), natAt("nat", "prerouting", -100, guest)},
	} {
		got := istio.Strange(chains, []uint16{15001}, false)
		if (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q, should have %q", got, want)
		}
	}
}

// TestNameless: rules without a name go with a mesh that writes such, where nobody else has any.
func TestNameless(t *testing.T) {
	istio, _ := MeshOf("istio")
	kuma, _ := MeshOf("kuma")
	ours := func(chain string) bool { return chain == "OURS" }
	output := natAt("nat", "output", -100, to("ISTIO_OUTPUT"), to("OURS"))
	output.Idle = []Rule{{Handle: 4, Idle: true}}
	theirs := Chain{Family: "ip", Table: "nat", Name: "ISTIO_OUTPUT"}
	if r, err := istio.Removal([]Chain{output, theirs}, ours); err != nil || len(r.Rules) != 2 || r.Rules[1].Handle != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, _ := kuma.Removal([]Chain{output, theirs}, ours); len(r.Rules) != 0 {
		t.Errorf("%+v", r)
	}
	output.Rules = append(output.Rules, to("MINE"))
	if r, _ := istio.Removal([]Chain{output, theirs}, ours); len(r.Rules) != 1 {
		t.Errorf("%+v", r)
	}
}

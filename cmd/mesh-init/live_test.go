package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
)

// changed is what there is to see of rules that somebody has changed. Their configuration excludes a port.
func changed() *dataplane.Overview {
	c := intercept.Default()
	c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
	return &dataplane.Overview{
		Verdict: dataplane.Changed, Summary: "changed: a rule is missing; 56 rules by nft", Causes: []string{"a rule is missing", "more"},
		Unread: []string{"who listens: it is hidden"},
		InForce: &dataplane.InForce{Config: c, At: time.Unix(1700000000, 0).UTC(), By: "mesh-init v1", Backend: dataplane.BackendNFT,
			Origins: map[string]string{"outbound.excludePorts": "mesh.yaml"}},
	}
}

// TestLive: what is explained is by the configuration in force, and beside it stands how it is with the rules.
func TestLive(t *testing.T) {
	with := func(verdict dataplane.Verdict, edit func(*dataplane.Overview)) *dataplane.Overview {
		o := changed()
		o.Verdict, o.Summary, o.Causes, o.Unread = verdict, string(verdict)+": as told", nil, nil
		if edit != nil {
			edit(o)
		}
		return o
	}
	const own = "What follows is what our rules do by themselves, as they were written.\n"
	letGo := func(o *dataplane.Overview) {
		o.Foreign.Chains = []beside.Foreign{{Family: "ip", Table: "nat", Chain: "OUTPUT", Effect: beside.NeverReached}}
	}
	ownAddress := func(o *dataplane.Overview) { o.Addresses = []netip.Addr{netip.MustParseAddr("10.1.2.3")} }
	for name, tc := range map[string]struct {
		live   *dataplane.Overview
		args   string
		code   int
		begins string
		has    []string
		said   string
	}{
		"changed": {changed(), "--dst 10.1.2.3:5432", 0,
			"changed: a rule is missing; 56 rules by nft\n  also: more\n  not seen: who listens: it is hidden\n" + own + "\npass: ",
			[]string{"config:  what is in force: mesh.yaml; the rest are the defaults\n", "decided: O5.ports: excluded port\n"}, ""},
		"intercepting": {with(dataplane.Intercepting, nil), "--dst 10.1.2.3:443", 0, "intercepting: as told\n\nredirect(15001): ",
			nil, ""},
		"unserved": {with(dataplane.Unserved, func(o *dataplane.Overview) { o.Causes = []string{"nobody listens", "nor there"} }),
			"--why-not 10.1.2.3:5432", 0, "unserved: as told\n\nnot captured: pass, by O5.ports", nil, ""},
		"taken":  {with(dataplane.Taken, nil), "--matrix", 0, "taken: as told\n" + own + "\nWhat becomes of ", nil, ""},
		"asleep": {with(dataplane.Asleep, nil), "--flows -", 0, "asleep: as told\n" + own + "\nLINE ", []string{"O5.ports"}, ""},
		"what is let go comes to a chain of another's": {with(dataplane.Intercepting, letGo), "--dst 10.1.2.3:5432", 0,
			"intercepting: as told\nWhat they let go comes to chain OUTPUT of table ip nat, of others, and may be sent elsewhere\n  there.\n\npass: ",
			nil, ""},
		"chains of others are hidden": {with(dataplane.Intercepting, func(o *dataplane.Overview) { o.Foreign.Error = "forbidden" }),
			"--dst 10.1.2.3:443", 0, "intercepting: as told\n  not seen: all chains of others: forbidden\n\n", nil, ""},
		"the default": {with(dataplane.Intercepting, func(o *dataplane.Overview) { o.InForce.Config = intercept.Default() }),
			"--dst 10.1.2.3:5432", 0, "", []string{"config:  what is in force: the defaults\n", "decided: O12: "}, ""},
		"from nobody knows where": {with(dataplane.Intercepting, func(o *dataplane.Overview) { o.InForce.Origins = nil }),
			"--dst 10.1.2.3:5432", 0, "", []string{"config:  what is in force\n"}, ""},
		"the app's user is the proxy's there": {with(dataplane.Intercepting, func(o *dataplane.Overview) {
			o.InForce.Config.Proxy.UIDs = intercept.IDs{{First: 1000, Last: 1000}}
		}), "--dst 10.1.2.3:443", 2, "", nil, "--uid: the default, 1000, is the proxy's here"},
		"from an address of the pod's": {with(dataplane.Intercepting, func(o *dataplane.Overview) {
			o.Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::6"), netip.MustParseAddr("fd00:244::5"),
				netip.MustParseAddr("10.244.0.5")}
		}), "--dst 10.1.2.3:443", 0, "", []string{"packet:  tcp 10.244.0.5:40000 -> 10.1.2.3:443, leaving by eth0"}, ""},
		"to the pod itself": {with(dataplane.Intercepting, ownAddress), "--dst 10.1.2.3:8080", 0, "",
			[]string{"leaving by lo", "pass: "}, ""},
		"to the pod, many": {with(dataplane.Intercepting, ownAddress), "--flows -", 0, "",
			[]string{"redirect(15006)", "arriving by eth0"}, ""},
		"to the pod, said to be otherwise": {with(dataplane.Intercepting, ownAddress), "--dst 10.1.2.3:8080 --interface eth1", 0, "",
			[]string{"redirect(15001)"}, ""},
		"a list is too long": {with(dataplane.Intercepting, func(o *dataplane.Overview) { o.InForce.Omitted = []string{"a.b"} }),
			"--dst 10.1.2.3:443", 2, "", nil, "too long to be kept beside them (a.b): give this verb the flags"},
		"not kept": {with(dataplane.Intercepting, func(o *dataplane.Overview) { o.InForce = nil }),
			"--dst 10.1.2.3:443", 2, "", nil, "--live: the configuration of the rules in force is not kept beside them: give "},
	} {
		r := invokeOn(t, fakePlane{live: tc.live}, "tcp 10.0.0.1:1 -> 10.1.2.3:5432\n", nil,
			append([]string{"explain", "--live"}, strings.Fields(tc.args)...)...)
		if r.code != tc.code || !strings.HasPrefix(r.out, tc.begins) || !strings.Contains(r.stderr, tc.said) ||
			tc.code != cli.ExitDone && r.out != "" ||
			slices.ContainsFunc(tc.has, func(s string) bool { return !strings.Contains(r.out, s) }) {
			t.Errorf("%s: exit code %d, want %d, and %q, %q\n%s%s", name, r.code, tc.code, tc.begins, tc.has, r.out, r.stderr)
		}
	}
	// A kernel that says nothing is no configuration.
	for err, code := range map[error]int{intercept.ErrNotIntercepted: 10, intercept.ErrPermission: 13, errors.New("x"): 1} {
		r := invokeOn(t, fakePlane{err: err}, "", nil, "explain", "--live", "--dst", "10.1.2.3:443", "-o", "json")
		if r.code != code || r.out != "" {
			t.Errorf("%v: exit code %d, want %d\n%s%s", err, r.code, code, r.out, r.stderr)
		}
	}
}

// TestLiveJSON: programs read whether what is explained is what happens; with --flows it is on a line before the flows.
func TestLiveJSON(t *testing.T) {
	for verdict, holds := range map[dataplane.Verdict]bool{
		dataplane.Intercepting: true, dataplane.Unserved: true, dataplane.Taken: false, dataplane.Changed: false, dataplane.Asleep: false,
	} {
		o := changed()
		o.Verdict = verdict
		r := invokeOn(t, fakePlane{live: o}, "tcp 10.0.0.1:1 -> 10.1.2.3:5432\n", nil, "explain", "--live", "--flows", "-", "-o", "json")
		lines := strings.Split(r.out, "\n")
		begins := fmt.Sprintf(`{"verdict":%q,"summary":%q,"holds":%t,"causes":["a rule is missing","more"],`+
			`"unread":["who listens: it is hidden"],"at":"2023-11-14T22:13:20Z","by":"mesh-init v1"}`, verdict, o.Summary, holds)
		if r.code != 0 || len(lines) != 3 || lines[0] != begins || !strings.HasPrefix(lines[1], `{"number":1,"fate":"pass"`) {
			t.Errorf("%d\n%s%s", r.code, r.out, r.stderr)
		}
	}
	o := changed()
	o.Verdict, o.Foreign.Chains = dataplane.Intercepting,
		[]beside.Foreign{{Family: "ip", Table: "nat", Chain: "OUTPUT", Effect: beside.NeverReached}}
	r := invokeOn(t, fakePlane{live: o}, "", nil, "explain", "--live", "--dst", "10.1.2.3:5432", "-o", "json")
	var other struct {
		Holds bool
		After []string
	}
	if err := json.Unmarshal([]byte(r.out), &other); err != nil || other.Holds ||
		!slices.Equal(other.After, []string{"chain OUTPUT of table ip nat"}) {
		t.Errorf("%v: %+v\n%s%s", err, other, r.out, r.stderr)
	}
	r = invokeOn(t, fakePlane{live: changed()}, "", nil, "explain", "--live", "--dst", "10.1.2.3:5432", "-o", "json")
	var got struct {
		Holds     bool
		Explained struct {
			ID      string
			Sources []string
		}
	}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Holds || got.Explained.ID != "O5.ports" ||
		!slices.Equal(got.Explained.Sources, []string{"mesh.yaml"}) {
		t.Errorf("%v: %+v\n%s%s", err, got, r.out, r.stderr)
	}
}

// TestApplyLiveSaysWhatItTakes: a variable that somebody has forgotten changes what is in force no more than it says so.
func TestApplyLiveSaysWhatItTakes(t *testing.T) {
	p := fakePlane{live: changed()}
	r := invokeOn(t, p, "", []string{"MESH_OUTBOUND_EXCLUDE_PORTS=80", "MESH_BACKEND=nft"}, "apply", "--live", "--dns", "all")
	if r.code != 0 || !strings.Contains(r.stderr, "--live: variables are laid over the configuration in force: "+
		"MESH_OUTBOUND_EXCLUDE_PORTS; unset what is not meant so") {
		t.Errorf("%+v", r)
	}
	p.result.Reason = "asked for"
	for backend, want := range map[string]string{"auto": "(as the rules that were there)", "nft": "(asked for)"} {
		if r = invokeOn(t, p, "", nil, "apply", "--live", "--backend", backend); r.code != 0 || !strings.Contains(r.out, want) {
			t.Errorf("%s: %+v", backend, r)
		}
	}
	if r = invokeOn(t, p, "", nil, "apply", "--live", "--dns", "all"); r.code != 0 || strings.Contains(r.stderr, "variables") {
		t.Errorf("%+v", r)
	}
}

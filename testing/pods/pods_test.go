//go:build linux

package pods

import (
	"errors"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/verify"
)

// A pod is one row: how it is configured, who is in it, and what was done to it.
type pod struct {
	name string
	// before is run in the pod by sh before the rules are applied, after when all is there.
	before, after string
	// config changes the default configuration. applied is another that is in force.
	config, applied func(*intercept.Config)
	backend         dataplane.Backend
	minimal         bool
	unapplied       bool
	in              []process
	// standIn has verify listen in place of the proxy. served is who has to be named by the error, if somebody does.
	standIn bool
	served  string
	lab     netlab.Options
	// far is who is at 10.99.0.9 and fd00:99::9, two routers away. Nil: there is no second router.
	far []process
	// broken are what has to fail: the beginnings of what verify says, word and all, of each thing that does. Nothing
	// else may. Empty: all is well.
	broken []string
	// notes are beginnings of notes that have to be there.
	notes []string
	// says are words that have to be among it.
	says []string
}

// run makes the pod and has it verified.
func (p pod) run(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, p.lab)
	shell(t, lab, p.before)
	c := intercept.Default()
	if p.config != nil {
		p.config(&c)
	}
	target := dataplane.Pod{NetNS: lab.Pod.Path(), Backend: p.backend, SetSysctls: true, StandIn: p.standIn}
	if p.minimal {
		target.IPTables.Dialect = iptables.Minimal
	}
	if !p.unapplied {
		applied := c
		if p.applied != nil {
			p.applied(&applied)
		}
		if _, err := target.Apply(t.Context(), applied); err != nil {
			t.Fatal(err)
		}
	}
	for _, each := range p.in {
		each.start(t, lab.Pod)
	}
	shell(t, lab, p.after)
	strangers := func() {}
	if p.far != nil {
		strangers = p.farther(t, lab)
	}
	before := state(t, lab)
	for end := time.Now().Add(5 * time.Second); strings.Contains(before, "linkdown") && time.Now().Before(end); {
		<-time.After(10 * time.Millisecond) // the kernel tells of a new link in its own time
		before = state(t, lab)
	}
	report, err := target.Verify(t.Context(), c)
	if p.served != "" {
		if err == nil || !strings.Contains(err.Error(), p.served) || !strings.Contains(err.Error(), "without --listen") {
			t.Errorf("%v, not that %s listens", err, p.served)
		}
		return
	}
	if p.unapplied != errors.Is(err, intercept.ErrNotIntercepted) || !p.unapplied && err != nil {
		t.Fatal(err)
	}
	if p.standIn {
		// A proxy that listens with no options finds its ports free.
		for _, each := range sidecar() {
			for i := range each.Listen {
				each.Listen[i].Plain = true
			}
			each.start(t, lab.Pod)
		}
	}
	if diff := cmp.Diff(before, state(t, lab)); diff != "" {
		t.Errorf("verify leaves something behind, or takes something: -before +after\n%s", diff)
	}
	strangers()
	if err := isOfSchema(t, schema(t), report); err != nil {
		t.Error(err)
	}
	p.judge(t, report)
}

func (p pod) judge(t *testing.T, report verify.Report) {
	t.Helper()
	var wrong []string
	for _, v := range report.Verdicts {
		if v.Verdict != verify.OK {
			wrong = append(wrong, string(v.Verdict)+": "+v.String())
		}
	}
	text := strings.Join(wrong, "\n")
	want := verify.OK
	for _, b := range p.broken {
		if word, _, _ := strings.Cut(b, ": "); want != verify.Failed {
			want = verify.Word(word)
		}
		if !slices.ContainsFunc(wrong, func(w string) bool { return strings.HasPrefix(w, b) }) {
			t.Errorf("%q is not said, but\n%s", b, text)
		}
	}
	for _, w := range wrong {
		if !slices.ContainsFunc(p.broken, func(b string) bool { return strings.HasPrefix(w, b) }) {
			t.Errorf("a false verdict: %s", w)
		}
	}
	for _, n := range p.notes {
		if !slices.ContainsFunc(report.Notes, func(note string) bool { return strings.HasPrefix(note, n) }) {
			t.Errorf("%q is not noted, but %q", n, report.Notes)
		}
	}
	for _, s := range p.says {
		if !strings.Contains(text, s) {
			t.Errorf("%q is not said, but\n%s", s, text)
		}
	}
	if report.Verdict != want {
		t.Errorf("%s, not %s", report.Verdict, want)
	}
	for _, v := range report.Verdicts {
		if v.What == "" || v.Found == "" || v.Verdict != verify.OK && v.Remedy == "" {
			t.Errorf("not all is said: %+v", v)
		}
	}
}

func shell(t *testing.T, lab *netlab.Lab, script string) {
	t.Helper()
	if script == "" {
		return
	}
	var out []byte
	err := lab.Pod.Do(func() (err error) {
		out, err = exec.Command("sh", "-euc", script).CombinedOutput()
		return err
	})
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// state is what verify must not change.
func state(t *testing.T, lab *netlab.Lab) string {
	t.Helper()
	var out []byte
	err := lab.Pod.Do(func() (err error) {
		out, err = exec.Command("sh", "-ec", `
			ip -o link; ip -o addr; ip -4 route show table all; ip -6 route show table all; ip rule; ip -6 rule; nft list tables`).Output()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.DeleteFunc(strings.Split(string(out), "\n"), func(l string) bool {
		// They come to be in their own time. The kernel's own routes to addresses go with these.
		return strings.Contains(l, "fe80:") || strings.Contains(l, "local ::6 dev lo") ||
			strings.HasPrefix(l, "local ") && strings.Contains(l, "proto kernel")
	})
	// So does what the kernel says of a link that is up.
	return regexp.MustCompile(`(?m) state \S+`).ReplaceAllString(strings.Join(lines, "\n"), "")
}

// The proxy, as most are.
var (
	theProxy = intercept.Owner{UID: 1337, GID: 1337}
	anApp    = intercept.Owner{UID: 1000, GID: 1000}
)

// at is a listener of TCP at each address.
func at(do what, addrs ...string) (all []listener) {
	for _, a := range addrs {
		all = append(all, listener{Protocol: "tcp", Addr: a, Do: do})
	}
	return all
}

// resolver is one at each address, over UDP and TCP.
func resolver(upstream string, addrs ...string) (all []listener) {
	for _, a := range addrs {
		for _, p := range []string{"udp", "tcp"} {
			all = append(all, listener{Protocol: p, Addr: a, Do: answer, Upstream: upstream})
		}
	}
	return all
}

func by(owner intercept.Owner, listeners ...[]listener) process {
	return process{Owner: owner, Listen: slices.Concat(listeners...)}
}

func outbound() []listener { return at(hold, "0.0.0.0:15001", "[::]:15001") }
func inbound() []listener  { return at(hold, "0.0.0.0:15006", "[::]:15006") }
func dns() []listener      { return resolver("", "127.0.0.1:15053", "[::1]:15053") }

// sidecar is a proxy as it has to be.
func sidecar() []process { return []process{by(theProxy, outbound(), inbound())} }

// withDNS is one with a resolver, which asks a server outside.
func withDNS() []process {
	return []process{by(theProxy, outbound(), inbound(), resolver("203.0.113.53:53", "127.0.0.1:15053", "[::1]:15053"))}
}

func allDNS(c *intercept.Config) { c.DNS.Mode = intercept.DNSAll }

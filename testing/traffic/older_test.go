//go:build linux

package traffic

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// olderConfig is what the rules in testdata/older were made of, in flags: --dns all --outbound-exclude-ports 5432.
func olderConfig() intercept.Config {
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
	return c
}

// olderVersions are those that wrote them. keeps is true of one that keeps the configuration beside the rules.
var olderVersions = []struct {
	version string
	keeps   bool
}{{"1c6570e", false}, {"3a3f8b8", true}}

// TestOlder: rules that an older version has written are named as such, are replaced in one step under traffic of which
// nothing gets past the proxy, and are removed without a rest.
func TestOlder(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for _, v := range olderVersions {
			t.Run(v.version, func(t *testing.T) {
				t.Parallel()
				older(t, w, v.version, v.keeps)
			})
		}
	})
}

func older(t *testing.T, w way, version string, keeps bool) {
	lab, _ := labWithSidecar(t, w)
	bare := rulesOf(t, lab)
	loadOlder(t, lab, w, version)
	pod := dataplane.Pod{NetNS: lab.Pod.Path(), Backend: dataplane.Backend(w), By: "mesh-init newer"}

	o, err := pod.Overview(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	says := "what they were made of is not kept beside them"
	if keeps {
		says = "changed: written by mesh-init " + version + ", and mesh-init newer makes other rules ("
	}
	if !strings.Contains(o.Summary, says) {
		t.Errorf("the first line does not say %q: %s", says, o.Summary)
	}
	if diffs, err := pod.Check(t.Context(), olderConfig()); err != nil || len(diffs) == 0 {
		t.Errorf("check finds nothing: %v", err)
	}

	var captured atomic.Int64
	var stop atomic.Bool
	var clients sync.WaitGroup
	begun := make(chan struct{}, 1)
	for i := range 2 {
		clients.Go(func() {
			for !stop.Load() {
				got, _, err := connectOnce(lab, netlab.Flow{Protocol: intercept.TCP, Dst: outside[i%2], Owner: app})
				if err != nil || got.Fate != intercept.RedirectedTo(15001) {
					t.Errorf("%s, %v", got, err)
				}
				captured.Add(1)
				select {
				case begun <- struct{}{}:
				default:
				}
			}
		})
	}
	<-begun
	result, err := pod.Apply(t.Context(), olderConfig())
	before := captured.Load()
	for captured.Load() < before+20 && !t.Failed() {
		<-begun
	}
	stop.Store(true)
	clients.Wait()
	if err != nil || result.Outcome != intercept.Replaced {
		t.Errorf("%s, %v", result.Outcome, err)
	}
	if diffs, err := pod.Check(t.Context(), olderConfig()); err != nil || len(diffs) > 0 {
		t.Errorf("%v, %v", diffs, err)
	}

	// What is removed is all of it: of rules that were replaced, and of rules as the older version left them.
	remove := func(what string) {
		removed, err := pod.Remove(t.Context())
		if err != nil || !removed {
			t.Errorf("%s: removed: %t, %v", what, removed, err)
		}
		if rest := rulesOf(t, lab); rest != bare {
			t.Errorf("%s: left behind:\n%s", what, rest)
		}
	}
	remove("replaced")
	loadOlder(t, lab, w, version)
	remove("as they were")
}

// loadOlder puts the rules of an older version in force.
func loadOlder(t *testing.T, lab *netlab.Lab, w way, version string) {
	t.Helper()
	path := filepath.Join("testdata", "older", version)
	load := func(file string, command ...string) {
		netlab.RequireProgram(t, command[0])
		text, err := os.Open(path + file)
		if err != nil {
			t.Fatal(err)
		}
		defer text.Close()
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdin = text
		cmd.Stderr = os.Stderr
		if err := lab.Pod.Start(cmd, nil); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%s: %v", cmd, err)
		}
	}
	if w == byNFT {
		load(".nft", "nft", "-f", "-")
		return
	}
	load(".iptables", string(w)+"-restore", "-w") // other tests hold the lock of legacy xtables
	load(".ip6tables", strings.Replace(string(w), "ip", "ip6", 1)+"-restore", "-w")
}

// rulesOf lists all that is in nf_tables but empty tables, and the chains of ours in legacy xtables.
func rulesOf(t *testing.T, lab *netlab.Lab) string {
	t.Helper()
	var out []byte
	err := lab.Pod.Do(func() (err error) {
		out, err = exec.Command("sh", "-ec", "nft -s list ruleset; iptables-legacy-save; ip6tables-legacy-save").Output()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	lines := slices.DeleteFunc(strings.Split(string(out), "\n"), func(line string) bool {
		return !strings.Contains(line, "MESH") && !strings.Contains(line, "mesh_intercept")
	})
	return strings.Join(lines, "\n")
}

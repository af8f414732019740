//go:build linux

package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// goes says where an app's connection goes to.
func goes(t *testing.T, lab *netlab.Lab, dst string) intercept.Fate {
	t.Helper()
	got, err := lab.Send(netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(dst),
		Owner: &intercept.Owner{UID: 1000, GID: 1000}})
	if err != nil {
		t.Fatal(err)
	}
	return got.Fate
}

// TestReconcile is a namespace's life: its rules are made, repaired, changed and removed, and connections go
// accordingly.
func TestReconcile(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	name, pod := lab.Pod.Path(), dataplane.Pod{NetNS: lab.Pod.Path()}
	captured, passes := intercept.RedirectedTo(15001), intercept.Fate{}
	database := intercept.Default()
	database.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
	remove := func() error { _, err := pod.Remove(t.Context()); return err }
	others := func() error { _, err := pod.Apply(t.Context(), database); return err }
	nothing := func() error { return nil }

	var o operator
	for _, step := range []struct {
		what      string
		before    func() error
		wanted    map[string]wish
		says      string
		web, base intercept.Fate
	}{
		{"nothing is wanted", nothing, nil, "", passes, passes},
		{"it is wanted", nothing, map[string]wish{name: {config: intercept.Default()}}, "created: there were no rules",
			captured, captured},
		{"all is well", nothing, map[string]wish{name: {config: intercept.Default()}}, "", captured, captured},
		{"somebody removes the rules", remove, map[string]wish{name: {config: intercept.Default()}},
			"created: there were no rules", captured, captured},
		{"somebody changes the rules", others, map[string]wish{name: {config: intercept.Default()}}, "replaced: ",
			captured, captured},
		{"the wish changes", nothing, map[string]wish{name: {config: database}}, "replaced: ", captured, passes},
		{"the wish is spoilt", nothing, map[string]wish{name: {err: errors.New("no YAML")}}, "no YAML", captured, passes},
		{"still", nothing, map[string]wish{name: {err: errors.New("no YAML")}}, "", captured, passes},
		{"nothing is wanted", nothing, nil, "removed", passes, passes},
		{"still", nothing, nil, "", passes, passes},
	} {
		if err := step.before(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		lines := o.reconcile(t.Context(), step.wanted)
		said := strings.Join(lines, "\n")
		if step.says == "" && said != "" || len(lines) > 1 || !strings.Contains(said, step.says) {
			t.Errorf("%s: it says %q, want %q", step.what, said, step.says)
		}
		web, base := goes(t, lab, "203.0.113.7:80"), goes(t, lab, "203.0.113.7:5432")
		if web != step.web || base != step.base {
			t.Errorf("%s: connections: %s to port 80, want %s; %s to port 5432, want %s", step.what, web, step.web, base,
				step.base)
		}
	}
}

// TestGone: a namespace that goes is no reason to say the same every second, nor to remember it for ever.
func TestGone(t *testing.T) {
	netlab.Require(t)
	o, name := operator{}, filepath.Join(t.TempDir(), "gone")
	wanted := map[string]wish{name: {config: intercept.Default()}}
	if lines := o.reconcile(t.Context(), wanted); len(lines) != 1 {
		t.Errorf("it says %q", lines)
	}
	if lines := o.reconcile(t.Context(), wanted); len(lines) != 0 {
		t.Errorf("it says so again: %q", lines)
	}
	if o.reconcile(t.Context(), nil); len(o.mine) > 0 {
		t.Errorf("it remembers %v", o.mine)
	}
}

// TestTime: with no time left nothing is done.
func TestTime(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	var o operator
	wanted := map[string]wish{lab.Pod.Path(): {config: intercept.Default()}}
	if lines := o.reconcile(ended, wanted); len(lines) != 1 || !strings.Contains(lines[0], context.Canceled.Error()) {
		t.Errorf("it says %q", lines)
	}
	if fate := goes(t, lab, "203.0.113.7:80"); fate != (intercept.Fate{}) {
		t.Errorf("a connection: %s", fate)
	}
}

// TestRead: a folder's files are wishes; one with a mistake is a wish that nobody knows, and names the mistake.
func TestRead(t *testing.T) {
	folder := t.TempDir()
	for name, text := range map[string]string{
		"good.yaml": "outbound: {excludePorts: [5432]}\n", "bad.yaml": "outbound: {excludePort: 5432}\n", "notes.txt": "x",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got := read(folder)
	good, bad := got["good"], got["bad"]
	if len(got) != 2 || good.err != nil || !good.config.Outbound.ExcludePorts.Contains(5432) || bad.err == nil ||
		!strings.Contains(bad.err.Error(), "excludePort") {
		t.Errorf("%+v", got)
	}
}

//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestUnfinishedNetwork: containerd sets lo up at the same time as it calls plugins, so that lo is still down is no
// warning in the log of the node.
func TestUnfinishedNetwork(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	if err := lab.Pod.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(lo)
	}); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	c := ofPod("ADD")
	c.netns = lab.Pod.Path()
	stdin := strings.Replace(entry(`{"intercept.mesh/enabled":"true"}`, ""), `"logFile":""`,
		fmt.Sprintf(`"logFile":%q`, log), 1)
	var out, stderr bytes.Buffer
	if code := run(t.Context(), c, strings.NewReader(stdin), &out, &stderr); code != 0 {
		t.Fatalf("exit code %d: %s%s", code, &out, &stderr)
	}
	lines, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(lines, []byte("intercepted")) || bytes.Contains(lines, []byte("WARN")) {
		t.Errorf("%s", lines)
	}
}

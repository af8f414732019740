package probes

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPage: what docs/probes.md shows of a pod is what Rewrite does.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/probes.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```(?:yaml|json)\n(.*?)```").FindAllSubmatch(page, -1)
	if len(blocks) < 4 {
		t.Fatalf("%d blocks", len(blocks))
	}
	c, text := parse(t, string(blocks[0][1]))
	_, want := parse(t, string(blocks[1][1]))
	set, err := Parse(string(blocks[2][1]))
	if err != nil {
		t.Fatal(err)
	}
	done, err := Rewrite(c, DefaultPort, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want(), text()) + cmp.Diff(set.Probes, done.Probes); diff != "" {
		t.Error(diff)
	}
}

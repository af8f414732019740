//go:build release

package chart_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPacked: the chart of a release, as make release has packed it, makes of every profile what the source makes of it,
// but with the release's image, by its digest.
func TestPacked(t *testing.T) {
	const dist = "../../dist/"
	packed, err := filepath.Glob(dist + "release/intercept-chart-*.tgz")
	if err != nil || len(packed) != 1 {
		t.Fatalf("charts: %q, %v; make release packs one", packed, err)
	}
	digest, err := os.ReadFile(dist + "images/intercept.digest")
	if err != nil {
		t.Fatal(err)
	}
	version := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(packed[0]), "intercept-chart-"), ".tgz")
	image := "ghcr.io/mesh-intercept/intercept:" + version + "@" + strings.TrimSpace(string(digest))
	for _, profile := range profiles(t) {
		want, err := render(t, newest, "profile="+profile)
		if err != nil {
			t.Fatal(err)
		}
		got, err := renderOf(t, packed[0], newest, "profile="+profile)
		if err != nil {
			t.Fatal(err)
		}
		images := 0
		for name, text := range got {
			images += strings.Count(text, "image: "+image+"\n")
			got[name] = strings.ReplaceAll(text, image, "localhost/intercept:dev")
		}
		for name, text := range want {
			want[name] = strings.ReplaceAll(text, " # that of make image; put yours here", "")
		}
		if diff := cmp.Diff(want, got); diff != "" || images != 2 {
			t.Errorf("%s: %d containers have the image %s; the source (-) and the release (+) make: %s", profile, images, image, diff)
		}
	}
}

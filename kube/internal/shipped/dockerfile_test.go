package shipped

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/internal/peers"
)

// TestDockerfile holds the Dockerfile to what is in the image that make images writes.
func TestDockerfile(t *testing.T) {
	b, err := os.ReadFile("../../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(b), "\\\n", " ")
	words := func(begin string) []string {
		_, after, found := strings.Cut(text, begin)
		list, _, end := strings.Cut(after, ";")
		if !found || !end {
			t.Fatalf("the Dockerfile has no %q", begin)
		}
		return strings.Fields(list)
	}
	if got := words("for program in "); !slices.Equal(got, Programs()) {
		t.Errorf("programs %q, want %q", got, Programs())
	}
	var links []string
	for _, path := range peers.Programs() {
		links = append(links, strings.TrimPrefix(path, "/"))
	}
	slices.Sort(links)
	if got := words("for name in "); !slices.Equal(got, links) {
		t.Errorf("names %q, want %q", got, links)
	}
	stages := strings.Split(text, "\nFROM ")
	last := stages[len(stages)-1]
	if !strings.HasPrefix(last, "scratch AS intercept\nCOPY --from=build /image/ /\n") ||
		!strings.Contains(last, `ENTRYPOINT ["/`+Programs()[0]+`"]`) {
		t.Errorf("the image that is built unless another is asked for:\n%s", last)
	}
	for key, value := range Labels("v1", Build{}) {
		if label := key + `="` + value + `"`; strings.Contains(last, key) && !strings.Contains(last, label) {
			t.Errorf("it has not %s", label)
		}
	}
}

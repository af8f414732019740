package answer

import (
	"slices"
	"testing"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/kube/internal/answers"
)

// TestVerdictsAreStates: each verdict of status is a state of a pod by the same word, in the same order: kubectl
// intercept, which knows no kernel, has the words by itself.
func TestVerdictsAreStates(t *testing.T) {
	last := -1
	for _, v := range dataplane.Verdicts() {
		at := slices.Index(answers.States(), answers.State(v))
		if at <= last {
			t.Errorf("%q is the state number %d, after number %d", v, at, last)
		}
		last = at
	}
}

package agent

import (
	"strings"
	"testing"
	"time"
)

// TestRepairsOfOnePod: who takes the rules out again and again makes few events, and
// each says how many repairs were passed over.
func TestRepairsOfOnePod(t *testing.T) {
	var r repairs
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	events, notes := 0, ""
	for range 24 * 60 * 6 { // a day, every ten seconds
		if tell, more := r.again(now); tell {
			events++
			notes += more
		}
		now = now.Add(10 * time.Second)
	}
	if events < 25 || events > 40 || !strings.Contains(notes, "It was repaired 359 times since the last such event") {
		t.Errorf("%d events: %s", events, notes)
	}
	// After a long time in peace the next is told at once.
	if tell, more := r.again(now.Add(2 * longestPause)); !tell || more != "" {
		t.Errorf("%v, %q", tell, more)
	}
	// A second repair soon after is not, and one after a minute is.
	var few repairs
	for _, tt := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {30 * time.Second, false}, {31 * time.Second, true}, {61 * time.Second, false},
		{61 * time.Second, true}} {
		now = now.Add(tt.after)
		if tell, _ := few.again(now); tell != tt.want {
			t.Errorf("after %v: %v", tt.after, tell)
		}
	}
}

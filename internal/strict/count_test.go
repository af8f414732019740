package strict

import "testing"

func TestCount(t *testing.T) {
	for _, tt := range []struct {
		n         int
		one, want string
	}{
		{0, "pod", "0 pods"},
		{1, "class", "1 class"},
		{2, "class", "2 classes"},
		{2, "entry", "2 entries"},
		{1, "family", "1 family"},
		{3, "day", "3 days"},
		{2, "match", "2 matches"},
	} {
		if got := Count(tt.n, tt.one); got != tt.want {
			t.Errorf("%d %s: %q, want %q", tt.n, tt.one, got, tt.want)
		}
	}
}

package ruleset

import "testing"

// TestMarkMatches: the bits that count decide, and the zero Mark is had by nobody.
func TestMarkMatches(t *testing.T) {
	for _, test := range []struct {
		m    Mark
		mark uint32
		want bool
	}{
		{Mark{0x700, 0xf00}, 0x701, true}, {Mark{0x700, 0xf00}, 0x1700, true}, {Mark{0x700, 0xf00}, 0x600, false},
		{Mark{0x539, AllBits}, 0x539, true}, {Mark{0x539, AllBits}, 0x1539, false}, {Mark{}, 0, false}, {Mark{}, 1, false},
	} {
		if got := test.m.Matches(test.mark); got != test.want {
			t.Errorf("%s, %#x: %t", test.m, test.mark, got)
		}
	}
}

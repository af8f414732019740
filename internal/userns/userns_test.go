package userns

import "testing"

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"         0          0 4294967295\n": "0-4294967294",
		"0 100000 65536\n":                   "0-65535",
		"0 1000 1\n1 100000 65536\n":         "0,1-65536",
		"":                                   "none",
		"x\n5 5 0\n7 7 1":                    "7",
	} {
		if got := parse(text).String(); got != want {
			t.Errorf("%q: %s, not %s", text, got, want)
		}
	}
}

// TestMapped: whoever runs this has an ID.
func TestMapped(t *testing.T) {
	for _, k := range []Kind{UIDs, GIDs} {
		if len(Mapped(k)) == 0 {
			t.Errorf("no %s", k)
		}
	}
	if got := Mapped("no such kind").String(); got != "0-4294967294" {
		t.Error(got)
	}
}

//go:build linux

package nft

import (
	"errors"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TestNoteIsAskedWhenItIsWritten: an apply that finds its rules in force asks for no note. One that is to write rules and
// has no note writes nothing.
func TestNoteIsAskedWhenItIsWritten(t *testing.T) {
	t.Parallel()
	_, conn := namespace(t)
	c := intercept.Default()
	rs := compileConfig(t, c)
	asked, failure := 0, errors.New("no note")
	rs.Note = func() (string, error) {
		asked++
		return "who and of what", failure
	}
	if _, err := conn.Apply(t.Context(), rs); !errors.Is(err, failure) || asked != 1 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	if there, err := conn.Holds(); there || err != nil {
		t.Errorf("there are rules: %v, %v", there, err)
	}
	failure = nil
	apply(t, conn, rs, ruleset.Created)
	apply(t, conn, rs, ruleset.Unchanged)
	if _, err := conn.Check(t.Context(), rs); err != nil || asked != 2 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	if note, err := conn.Note(t.Context()); err != nil || note != "who and of what" {
		t.Errorf("%q, %v", note, err)
	}
	c.Proxy.UIDs = intercept.IDs{{First: 7, Last: 7}}
	other := compileConfig(t, c)
	other.Note = func() (string, error) { return "another", nil }
	apply(t, conn, other, ruleset.Replaced)
	if note, err := conn.Note(t.Context()); err != nil || note != "another" {
		t.Errorf("%q, %v", note, err)
	}
}

package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestByHand: who runs the plugin in a shell is told what it is, and a runtime's
// questions are not taken for that.
func TestByHand(t *testing.T) {
	for args, want := range map[string]struct {
		code        int
		out, stderr string
	}{
		"--help":    {0, "CNI protocol versions supported: 0.3.0, 0.3.1, ", ""},
		"--version": {0, "mesh-cni ", ""},
		"-v":        {0, "mesh-cni ", ""},
		"version":   {0, "mesh-cni ", ""},
		"ADD":       {2, "", `mesh-cni: "ADD" is left over: `},
		"-v x":      {2, "", `mesh-cni: "-v" is left over: `},
	} {
		var out, errOut bytes.Buffer
		code := byHand(strings.Fields(args), &out, &errOut)
		if code != want.code || !strings.Contains(out.String(), want.out) ||
			!strings.HasPrefix(errOut.String(), want.stderr) ||
			(want.out == "") != (out.Len() == 0) || (want.stderr == "") != (errOut.Len() == 0) {
			t.Errorf("%q: exit code %d, %q, %q", args, code, &out, &errOut)
		}
	}
}

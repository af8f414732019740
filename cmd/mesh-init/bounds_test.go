package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// TestManyMistakes: however long what is wrong with a command line or an environment, it is refused at once, in a text
// that can be read: some mistakes by name, the others by their number.
func TestManyMistakes(t *testing.T) {
	const n = 50_000
	many := func(pattern string) []string {
		all := make([]string, n)
		for i := range all {
			all[i] = strings.ReplaceAll(pattern, "#", fmt.Sprint(i))
		}
		return all
	}
	for name, tc := range map[string]struct {
		args, env []string
		more      int // that are not named
	}{
		"unknown flags":            {many("--outbond-prt#"), nil, n - strict.Most},
		"flags of other verbs":     {many("--dst=10.0.0.#:1"), nil, n - strict.Most},
		"left over":                {many("x#"), nil, n - strict.Most},
		"values missing":           {many("--netns"), nil, 0},
		"one flag again and again": {many("--dns=x#"), nil, 0},
		"exclusions":               {many("--outbound-exclude=x#"), nil, n - strict.Most},
		"a list": {[]string{"--outbound-exclude-ports", strings.Join(many("x#"), ",")}, nil,
			n - strict.Most},
		"misspelt variables": {nil, many("MESH_OUTBOUND_EXCLUDE_PRT_#=1"), 0},
		"one variable's lines": {nil, []string{"MESH_OUTBOUND_EXCLUDE=" + strings.Join(many("x#"), "\n")},
			n - strict.Most},
		"both": {many("--foo#"), many("MESH_DNS_SERVER#=1"), 0},
	} {
		r := invoke(t, "", tc.env, append([]string{"apply"}, tc.args...)...)
		lines := r.lines()
		if r.code != cli.ExitUsage || len(lines) > strict.Most+2 || len(r.stderr) > 8<<10 ||
			tc.more > 0 && lines[len(lines)-1] != fmt.Sprintf("mesh-init: and %d more errors", tc.more) {
			t.Errorf("%s: exit code %d, %d lines, %d bytes, the last %.200q", name, r.code, len(lines), len(r.stderr),
				lines[len(lines)-1])
		}
	}
}

package main

import (
	"context"

	"github.com/mesh-intercept/intercept/internal/cli"
)

// A verb is one row of the table of verbs. Each has a file of its own, with its
// row, its flags and what it does.
type verb struct {
	cli.Verb
	run func(job) error
}

// verbs is the one table of verbs.
func verbs() []verb {
	return []verb{
		applyVerb(),
		removeVerb(),
		checkVerb(),
		statusVerb(),
		renderVerb(),
		explainVerb(),
		verifyVerb(),
		traceVerb(),
		watchVerb(),
		doctorVerb(),
		supportVerb(),
		injectVerb(),
		lintVerb(),
		versionVerb(),
	}
}

// commandLine is the program's, with its verbs and flags.
func (p program) commandLine(env []string) cli.Program {
	c := cli.Program{
		Console: p.console(),
		Does:    "sends a pod's traffic through its sidecar proxy",
		Flags:   outputFlags(),
		Start:   "apply",
		Notes:   notes,
	}
	for _, v := range verbs() {
		row := v.Verb
		row.Run = func(ctx context.Context, line cli.Line) int { return p.do(ctx, v, line, env) }
		c.Verbs = append(c.Verbs, row)
	}
	c.Verbs = append(c.Verbs, p.migrateVerb(env))
	for _, d := range dropIns() {
		c.Verbs = append(c.Verbs, cli.Verb{Name: d.name, Does: d.does, InPlaceOf: true, Raw: func(ctx context.Context, args []string) int {
			return p.standIn(ctx, d, args, env)
		}})
	}
	return c
}

// notes are what the general help says after the flags.
const notes = `
Values:
  PORT       a port, 80, or a range, 8000-8010
  PORTS      ports and ranges, 80,8000-8010; * for all, none for none
  IDS        user or group numbers and ranges, 1337,2000-2999; none for none
  CIDRS      addresses and prefixes, 10.0.0.0/8,fd00::1; * for all, none for none
  MARK       a number and the bits that count, 1337 or 0x539/0xfff; none for none
  ADDRESSES  addresses, 10.0.0.10,fd00::10; none for none
  An empty value is an error, and so is a flag that is given twice.

Environment:
  A flag that is not given is taken from the environment: --dns-port from
  MESH_DNS_PORT, and so on (not --dry-run and the packet to explain). What is not
  there either is taken from the file, and then it is the default. A variable
  MESH_... that looks like a misspelt one of these is an error, and any other is
  passed over with a warning.
`

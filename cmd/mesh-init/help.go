package main

import (
	"context"
	"fmt"
	"strings"
)

// help answers the verb help: of everything, or of the verb named after it.
func (p program) help(ctx context.Context, args []string) int {
	switch {
	case len(args) == 0 || strings.HasPrefix(args[0], "-"):
		return p.print(ctx, generalHelp())
	case len(args) > 1:
		return p.fail(ctx, nil, usageError{fmt.Errorf("%q is left over: help takes one verb", args[1])})
	}
	v, _, err := chooseVerb(args)
	if err != nil {
		return p.fail(ctx, nil, usageError{err})
	}
	return p.print(ctx, verbHelp(v))
}

// generalHelp is what a person needs who meets the command for the first time.
func generalHelp() string {
	var b strings.Builder
	b.WriteString(`mesh-init sends a pod's traffic through its sidecar proxy.

Usage: mesh-init [verb] [flags]

Verbs:
`)
	for _, v := range verbTable() {
		fmt.Fprintf(&b, "  %-8s %s\n", v.name, v.does)
	}
	writeFlags(&b, everywhere)
	b.WriteString(`
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
  there either is taken from the file, and then it is the default. An unknown
  variable MESH_... is an error.

Exit codes:
`)
	for _, e := range exits() {
		fmt.Fprintf(&b, "  %2d  %s\n", e.code, e.meaning)
	}
	b.WriteString("\nExamples:\n")
	for _, v := range verbTable() {
		writeExamples(&b, v.verb)
	}
	return b.String()
}

// verbHelp is the help of one verb.
func verbHelp(v verbRow) string {
	if v.verb == helpVerb {
		return generalHelp()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "mesh-init %s: %s\n\nUsage: mesh-init %s %s\n", v.name, v.does, v.name, v.usage)
	if v.more != "" {
		fmt.Fprintf(&b, "\n%s\n", v.more)
	}
	writeFlags(&b, v.verb)
	b.WriteString("\nThe environment, the values and the exit codes: mesh-init --help\n")
	var examples strings.Builder
	writeExamples(&examples, v.verb)
	if examples.Len() > 0 {
		b.WriteString("\nExamples:\n" + examples.String())
	}
	return b.String()
}

// helpFor is the help of the verb at hand: the general one if it was chosen
// by default.
func helpFor(v verbRow, explicit bool) string {
	if explicit {
		return verbHelp(v)
	}
	return generalHelp()
}

// The meaning of a flag begins in column usageColumn and is usageWidth wide.
const (
	usageColumn = 38
	usageWidth  = 62
)

func writeFlags(b *strings.Builder, of verbs) {
	var heading group
	for _, f := range flags() {
		if f.verbs&of == 0 {
			continue
		}
		if f.group != heading {
			heading = f.group
			fmt.Fprintf(b, "\n%s:\n", heading)
		}
		left := "  --" + f.name
		if !f.isSwitch() {
			left += " " + f.value
		}
		if len(left) >= usageColumn {
			b.WriteString(left + "\n")
			left = ""
		}
		lines := strings.Split(f.usage, "\n")
		if f.initial != "" && !f.isSwitch() {
			last := &lines[len(lines)-1]
			if initial := "(default " + f.initial + ")"; len(*last)+len(initial) < usageWidth {
				*last += " " + initial
			} else {
				lines = append(lines, initial)
			}
		}
		for _, line := range lines {
			fmt.Fprintf(b, "%-*s%s\n", usageColumn, left, line)
			left = ""
		}
	}
}

// examples are what people come for.
var examples = []struct {
	verb verbs
	text string
}{
	{applyVerb, `
  In a pod's init container (runAsUser: 0, capabilities: add: [NET_ADMIN]):
    mesh-init apply --outbound-exclude-ports 5432 --dns resolvconf
  From the node, for a pod of which PID 4711 is a process:
    mesh-init apply --netns /proc/4711/ns/net --config mesh.yaml
`},
	{checkVerb, `
  Are the rules there that this configuration makes?
    mesh-init check --config mesh.yaml
`},
	{statusVerb, `
  What has been captured, and what has passed, by which rule?
    mesh-init status --netns /run/netns/pod
`},
	{renderVerb, `
  The rules as text, without touching anything:
    mesh-init render --outbound-include-cidrs 10.0.0.0/8,fd00::/8
`},
	{explainVerb, `
  Why does this call of the app (not) go to the proxy?
    mesh-init explain --dst 10.1.2.3:443 --uid 1000 --config mesh.yaml
  The proxy calls its own pod by the pod's address; a client calls port 8080:
    mesh-init explain --from proxy --to-self --dst 10.244.1.7:8080
    mesh-init explain --from outside --src 10.244.2.9 --dst 10.244.1.7:8080
`},
}

func writeExamples(b *strings.Builder, of verbs) {
	for _, e := range examples {
		if e.verb&of != 0 {
			b.WriteString(strings.TrimPrefix(e.text, "\n"))
		}
	}
}

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
)

func doctorVerb() verb {
	return verb{cli.Verb{
		Name: "doctor", Does: "say what this system can do, what it lacks and what mends that",
		Also: []string{"diagnose", "info"},
		More: "It tries every backend and changes nothing: nftables in a transaction that ends in an\n" +
			"error, iptables in a network namespace of its own (which takes CAP_SYS_ADMIN).",
		Flags: func() []cli.Flag { return append(configFlags(), kernelFlags()...) },
	}, job.doctor}
}

// doctor reports what the system can do. Its answer to "would apply work?" is
// its exit code.
func (j job) doctor() error {
	r, err := j.plane.Probe(j.ctx, j.config)
	if err != nil {
		return err
	}
	err = j.print(r, func() string { return doctorText(r) })
	if err == nil && r.Error != "" && r.Choice.Backend != "" {
		return fmt.Errorf("%w to find out whether apply would work", intercept.ErrPermission)
	}
	if err == nil && r.Error != "" {
		err = wouldFail(r.Error)
	}
	return err
}

// wouldFail says why apply would fail. It is [intercept.ErrUnsupported]: of the kernel, or for want of a program.
type wouldFail string

func (e wouldFail) Error() string      { return "apply would fail: " + string(e) }
func (wouldFail) Is(target error) bool { return target == intercept.ErrUnsupported }

// doctorText is the report for people: what holds, what does not and why, and
// what mends it.
func doctorText(r dataplane.Report) string {
	var b strings.Builder
	line := func(what, state, more string) {
		b.WriteString(cli.Hang(fmt.Sprintf("%-32s %-8s ", what, state), 42, strict.OneLine(more)))
	}
	sentence := func(format string, args ...any) {
		b.WriteString(cli.Hang("", 2, strict.OneLine(fmt.Sprintf(format, args...))))
	}
	yes := func(v bool) string {
		if v {
			return "yes"
		}
		return "no"
	}
	kernel := ""
	if r.GVisor {
		kernel = "gVisor, a kernel in user space: it has iptables-legacy alone, and part of that (docs/compatibility.md)"
	}
	line("kernel", r.Kernel, kernel)
	line("IPv6", yes(r.IPv6), "")
	host := ""
	if r.HostNetNS {
		host = "apply refuses it without --allow-host-netns: " + r.HostReason
	}
	line("the host's network namespace", yes(r.HostNetNS), host)
	foreign := ""
	if r.ForeignUserNS {
		foreign = "iptables cannot know owners there; nft can"
	}
	line("another user namespace", yes(r.ForeignUserNS), foreign)
	for _, p := range r.Privileges {
		line(p.Name, yes(p.Held), "for "+p.For)
	}
	present := "none"
	switch {
	case len(r.Present) > 0:
		present = joinBackends(r.Present)
	case r.Unseen != "":
		present = "unknown"
	}
	line("rules of ours now", present, r.Unseen)
	for _, d := range r.Backends {
		b.WriteString("\n")
		line(string(d.Backend), string(d.State), d.Reason)
		for _, p := range d.Programs {
			waits := ""
			if !p.Waits {
				waits = ", which does not wait for the lock of xtables: install 1.6.2 or later"
			}
			line("  program, "+p.Family, p.Version, p.Path+waits)
		}
		said := []string{d.Reason} // what has been said of this backend is not said again
		for _, c := range d.Capabilities {
			more := ""
			if !c.Needed {
				more = "(not needed by this configuration)"
			}
			if c.Errno != "" {
				more = strings.TrimSpace(c.Errno + " " + more)
			}
			switch known := slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, c.Cause) }); {
			case c.State == dataplane.StateMissing && known:
				more = strings.TrimSpace(more + " for the same reason")
			case c.Cause != "":
				more, said = strings.TrimSpace(more+" "+c.Cause), append(said, c.Cause)
			}
			line("  "+c.Name, string(c.State), more)
		}
	}
	b.WriteString(foreignText(r.Foreign))
	b.WriteString(othersText(r.Others))
	b.WriteString("\n")
	for _, w := range r.Warnings {
		sentence("warning: %s", w)
	}
	switch {
	case r.Error != "" && r.Choice.Backend != "":
		sentence("apply would take %s, which could not be tried: %s", r.Choice.Backend, r.Error)
	case r.Error != "":
		sentence("apply would fail: %s", r.Error)
	default:
		sentence("apply takes %s: %s", r.Choice.Backend, r.Choice.Reason)
	}
	for _, w := range r.Without {
		sentence("%s", w)
	}
	if len(r.Modules) > 0 {
		fmt.Fprintf(&b, "\nModules that provide what is missing, for the node's %s:\n%s\n",
			dataplane.ModulesFile, strings.Join(r.Modules, "\n"))
	}
	return b.String()
}

func backendNames(all []dataplane.Backend) []string {
	names := make([]string, len(all))
	for i, b := range all {
		names[i] = string(b)
	}
	return names
}

func joinBackends(all []dataplane.Backend) string { return strings.Join(backendNames(all), ", ") }

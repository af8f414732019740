package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/decode"
)

// verbs is a set of verbs.
type verbs uint16

const (
	applyVerb verbs = 1 << iota
	removeVerb
	checkVerb
	statusVerb
	renderVerb
	explainVerb
	verifyVerb
	doctorVerb
	versionVerb
	helpVerb
)

// String names the verbs of the set.
func (v verbs) String() string {
	var names []string
	for _, row := range verbTable() {
		if row.verb&v != 0 {
			names = append(names, row.name)
		}
	}
	return strings.Join(names, ", ")
}

// verbRow is one row of the table of verbs.
type verbRow struct {
	verb  verbs
	name  string
	does  string
	run   func(job) error
	more  string // said in the verb's own help
	usage string
}

// verbTable is the one table of verbs. The first is the default.
func verbTable() []verbRow {
	return []verbRow{
		{applyVerb, "apply", "put the rules in force, all or nothing (the default)", job.apply,
			"Applying twice is applying once. Rules of an earlier configuration are replaced in\n" +
				"one transaction, without a moment in between.", "[flags]"},
		{removeVerb, "remove", "take the rules out", job.remove,
			"Nothing that is not ours is touched. It is no error if there are none.", "[flags]"},
		{checkVerb, "check", "compare the rules in force with the configuration", job.check,
			"Give it the flags, the environment and the file that apply was given.", "[flags]"},
		{statusVerb, "status", "show the rules in force and what each has counted", job.status,
			"NAT rules count connections, since they see the first packet of each alone.", "[flags]"},
		{renderVerb, "render", "print the rules for the configuration; no privilege needed", job.render,
			"The text is for people and for nft -f; with --backend iptables, -nft or -legacy, for\niptables-restore --noflush.", "[flags]"},
		{explainVerb, "explain", "say what happens to a packet and why; no privilege needed", job.explain,
			"It follows the rules that this configuration makes, not those in a kernel:\ncheck says whether the two are the same.",
			"--dst ADDRESS:PORT [--from app|proxy|outside] [flags]"},
		{verifyVerb, "verify", "say whether interception works: rules, listeners, a connection", job.verify,
			"It opens connections to addresses nobody has (RFC 5737, RFC 3849), with a hop limit of 1:\nthey get no further than the node if they are not captured.", "[flags]"},
		{doctorVerb, "doctor", "say what this system can do, what it lacks and what mends that", job.doctor,
			"It tries every backend and changes nothing: nftables in a transaction that ends in an\nerror, iptables in a network namespace of its own (which takes CAP_SYS_ADMIN).", "[flags]"},
		{versionVerb, "version", "print the version", job.version, "", "[flags]"},
		{helpVerb, "help", "print this text, or that of a verb", nil, "", "[verb]"},
	}
}

func (j job) apply() error {
	rs, err := intercept.Compile(j.config)
	if err != nil {
		return usageError{err}
	}
	if j.dryRun {
		return j.render()
	}
	r, err := j.plane.Apply(j.config)
	if err != nil {
		return err
	}
	for _, w := range r.Warnings {
		j.log.WarnContext(j.ctx, w)
	}
	rules, families := countRules(rs), familyNames(rs)
	if j.json {
		return j.printJSON(struct {
			dataplane.Result
			Rules    int      `json:"rules"`
			Families []string `json:"families"`
		}{r, rules, families})
	}
	fmt.Fprintf(j.out, "%s: %d rules, %s, by %s (%s)\n",
		r.Outcome, rules, strings.Join(families, " and "), r.Backend, r.Reason)
	return nil
}

func (j job) remove() error {
	removed, err := j.plane.Remove()
	switch {
	case err != nil:
		return err
	case removed:
		fmt.Fprintln(j.out, "removed")
	default:
		fmt.Fprintln(j.out, "nothing to remove")
	}
	return nil
}

func (j job) check() error {
	differences, err := j.plane.Check(j.config)
	if err != nil {
		return err
	}
	if j.json {
		type difference struct {
			What    string `json:"what"`
			Problem string `json:"problem"`
		}
		list := make([]difference, len(differences))
		for i, d := range differences {
			list[i] = difference{d.What, d.Problem}
		}
		err = j.printJSON(struct {
			OK          bool         `json:"ok"`
			Differences []difference `json:"differences"`
		}{len(list) == 0, list})
	} else {
		for _, d := range differences {
			fmt.Fprintln(j.out, decode.OneLine(d.String()))
		}
		if len(differences) == 0 {
			fmt.Fprintln(j.out, "ok")
		}
	}
	if len(differences) > 0 && err == nil {
		err = errDrifted
	}
	return err
}

// verify says of each thing that interception needs whether it is there.
func (j job) verify() error {
	verdicts, err := j.plane.Verify(j.config)
	if err != nil {
		return err
	}
	ok := true
	for _, v := range verdicts {
		ok = ok && v.OK
	}
	if j.json {
		err = j.printJSON(struct {
			OK       bool                `json:"ok"`
			Verdicts []dataplane.Verdict `json:"verdicts"`
		}{ok, verdicts})
	} else {
		for _, v := range verdicts {
			state := "FAILED"
			if v.OK {
				state = "ok"
			}
			fmt.Fprintf(j.out, "%-6s  %s: %s\n", state, decode.OneLine(v.What), decode.OneLine(v.Found))
		}
	}
	if !ok && err == nil {
		err = errNotVerified
	}
	return err
}

func (j job) status() error {
	counters, err := j.plane.Counters()
	if err != nil {
		return err
	}
	if j.json {
		if counters == nil {
			counters = []intercept.Counter{}
		}
		return j.printJSON(counters)
	}
	// One table, so that the columns of all chains agree; a chain's name goes
	// before its first rule afterwards.
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PACKETS\tBYTES\tLINE\tFAMILY\tREASON")
	for _, c := range counters {
		fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%s\n", c.Packets, c.Bytes, decode.OneLine(c.Line), c.Family, decode.OneLine(c.Reason))
	}
	_ = w.Flush() // to memory
	heading, rows, _ := strings.Cut(table.String(), "\n")
	fmt.Fprintln(j.out, heading)
	for i, row := range strings.Split(strings.TrimSuffix(rows, "\n"), "\n")[:len(counters)] {
		if i == 0 || counters[i-1].Chain != counters[i].Chain {
			fmt.Fprintf(j.out, "%s:\n", decode.OneLine(counters[i].Chain))
		}
		fmt.Fprintln(j.out, row)
	}
	return nil
}

func countRules(rs intercept.Ruleset) (n int) {
	for _, c := range rs.Chains {
		n += len(c.Rules)
	}
	return n
}

func familyNames(rs intercept.Ruleset) []string {
	var names []string
	for _, f := range rs.Families {
		names = append(names, f.String())
	}
	return names
}

func (j job) printJSON(v any) error {
	e := json.NewEncoder(j.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

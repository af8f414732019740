// Package verify decides what to try in a pod so that interception is proven there, and judges what came of it.
//
// [MakePlan] is a function of the configuration, of its rules and of what the pod can reach: it chooses connections and
// lookups, by [ruleset.Ruleset.Trace], so that every rule that captures or exempts is met at least once. [Judge] is a
// function of one of them and of what was seen of it. What lies between, the trying, is package dataplane's.
package verify

import (
	"fmt"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Word is what verify says of a thing that has to hold.
type Word string

// The words. OK is never said of what was not tried.
const (
	OK        Word = "ok"
	Failed    Word = "failed"
	NotProven Word = "not proven"
)

// Rules is Verdict.What of the rules themselves, which come first.
const Rules = "rules"

// Verdict is what verify finds of one thing.
type Verdict struct {
	// What is the thing: "an app's connection, IPv4".
	What    string `json:"what"`
	Verdict Word   `json:"verdict"`
	// Tried says what was done: "TCP to 192.0.2.1:80 by user 1000, group 1000". Empty: nothing was.
	Tried string `json:"tried,omitempty"`
	// Found says what happened.
	Found string `json:"found"`
	// Rule is the rule that has to decide, by the configuration, and Reason its reason.
	Rule   ruleset.RuleID `json:"rule,omitempty"`
	Reason string         `json:"reason,omitempty"`
	// Remedy says what to do. Empty if it is OK.
	Remedy string `json:"remedy,omitempty"`
}

// String is the verdict in one line, without its word.
func (v Verdict) String() string {
	s := v.What
	if v.Tried != "" {
		s += ": " + v.Tried
	}
	s += ": " + v.Found
	if v.Remedy != "" {
		s += "; " + v.Remedy
	}
	return s
}

// Report is all that verify finds.
type Report struct {
	// Verdict is Failed if anything is, else NotProven if anything is, else OK.
	Verdict  Word      `json:"verdict"`
	Verdicts []Verdict `json:"verdicts"`
	Coverage Coverage  `json:"coverage"`
	// Notes say what there is nothing to prove of, such as a family that the pod cannot reach.
	Notes []string `json:"notes"`
}

// Coverage is which of the rules that capture or exempt were tried.
type Coverage struct {
	// Rules is how many there are, and Tried how many of them decided about something that was tried.
	Rules int `json:"rules"`
	Tried int `json:"tried"`
	// NotTried are the others.
	NotTried []NotTried `json:"notTried"`
}

// NotTried is a rule that was not tried.
type NotTried struct {
	Rule   ruleset.RuleID `json:"rule"`
	Reason string         `json:"reason"`
	// Because says why it was not.
	Because string `json:"because"`
}

// String says how many rules were tried.
func (c Coverage) String() string {
	return fmt.Sprintf("rules tried, of those that capture or exempt: %d of %d", c.Tried, c.Rules)
}

// Conclude returns the report on verdicts. Without a verdict that is OK nothing is proven.
func Conclude(verdicts []Verdict, coverage Coverage, notes []string) Report {
	r := Report{Verdict: NotProven, Verdicts: verdicts, Coverage: coverage, Notes: notes}
	count := map[Word]int{}
	for _, v := range verdicts {
		if v.Verdict != OK || v.What != Rules { // that rules are there proves nothing of what they do
			count[v.Verdict]++
		}
	}
	switch {
	case count[Failed] > 0:
		r.Verdict = Failed
	case count[NotProven] == 0 && count[OK] > 0:
		r.Verdict = OK
	}
	if r.Coverage.NotTried == nil {
		r.Coverage.NotTried = []NotTried{}
	}
	if r.Notes == nil {
		r.Notes = []string{}
	}
	return r
}

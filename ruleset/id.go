package ruleset

import (
	"fmt"
	"strings"
)

// RuleID names a rule: in the kernel, in counters, in explanations and in errors. It does not change when the rule's
// reason is worded better, and is what programs compare.
//
// It is a line of docs/policy.md, such as I7. Where one line takes several rules a detail follows a dot: O5.ports,
// O4.uid. Where the line is asked again in another chain, a scope stands before a slash: reject/O5.ports.
type RuleID string

// Line returns the line of the policy that the rule enforces: "O1" to "O14" for outbound, "I1" to "I8" for inbound,
// "Z0" and "Z2" for the conntrack zone of name lookups, "B1" to "B12" for the backstop.
func (id RuleID) Line() string {
	_, line := id.scope()
	line, _, _ = strings.Cut(line, ".")
	return line
}

// scope splits the scope from the rest, which is all of an ID without one.
func (id RuleID) scope() (scope, rest string) {
	if i := strings.LastIndexByte(string(id), '/'); i >= 0 {
		return string(id[:i]), string(id[i+1:])
	}
	return "", string(id)
}

// In returns the ID of the same line where it is asked again.
func (id RuleID) In(scope string) RuleID { return RuleID(scope) + "/" + id }

// validate reports an ID that could not be told from the reason that follows it in a comment, or that names no line.
func (id RuleID) validate() error {
	line := id.Line()
	isLine := len(line) >= 2 && line[0] >= 'A' && line[0] <= 'Z' && strings.Trim(line[1:], "0123456789") == ""
	if !isLine || strings.ContainsAny(string(id), ": \"") {
		return fmt.Errorf("%q is not the ID of a rule, such as O5.ports or reject/O5.ports", string(id))
	}
	return nil
}

// RuleError is an error about one rule. Test for it with [errors.As].
type RuleError struct {
	Chain string
	Rule  RuleID
	Err   error
}

func (e *RuleError) Error() string {
	return fmt.Sprintf("chain %s, rule %s: %s", e.Chain, e.Rule, e.Err.Error())
}

func (e *RuleError) Unwrap() error { return e.Err }

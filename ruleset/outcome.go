package ruleset

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
)

// What the packages nft and iptables, which put rules into a kernel, have in
// common: how they fail and what they answer.

var (
	// ErrNotIntercepted reports that none of our rules are in the namespace.
	ErrNotIntercepted = errors.New("not intercepted: the namespace has none of our rules")
	// ErrForeign reports a table or a chain of our name that Intercept did not make.
	ErrForeign = errors.New("it has our name, and not the mark of what Intercept makes: another made it, or took the mark out")
	// ErrPermission reports that the kernel refused for want of privilege.
	ErrPermission = errors.New("no permission")
	// ErrUnsupported reports that the kernel, or a program that rules are
	// written with, lacks something the rules need.
	ErrUnsupported = errors.New("the kernel lacks support")
	// ErrNeedsLinux reports something that only Linux can do, and that was
	// asked for on another system. It is ErrUnsupported.
	ErrNeedsLinux = fmt.Errorf("%w: this needs Linux, not %s", ErrUnsupported, runtime.GOOS)
	// ErrLocked reports that another program held a lock for the whole wait.
	ErrLocked = errors.New("locked by another program")
)

// ModulesError reports modules that the kernel lacks. It is [ErrUnsupported].
type ModulesError struct {
	// What they provide, as in "expression redir" or "match owner".
	What string
	// Modules are their names, at least one.
	Modules []string
	// Err is the kernel's or the program's answer. The text does without it.
	Err error
}

func (e *ModulesError) Error() string {
	return fmt.Sprintf("%s for %s: load %s on the node (modprobe), or use a kernel that has it", ErrUnsupported, e.What,
		strings.Join(e.Modules, ", "))
}

// Unwrap returns ErrUnsupported and the kernel's answer.
func (e *ModulesError) Unwrap() []error { return []error{ErrUnsupported, e.Err} }

// PermissionError reports a capability that the process lacks. It is [ErrPermission].
type PermissionError struct {
	// Capabilities are those that it takes, without CAP_ (capabilities(7)): at least one.
	Capabilities []string
	// Err is the kernel's or the program's answer.
	Err error
}

// NoNetAdmin is the error where the kernel asks for CAP_NET_ADMIN, as for nearly all that changes a network namespace.
func NoNetAdmin(answer error) error { return &PermissionError{[]string{"NET_ADMIN"}, answer} }

func (e *PermissionError) Error() string {
	return fmt.Sprintf("%s (%s): it takes CAP_%s in the user namespace that owns the network namespace; in a pod, run as user 0 "+
		"with capabilities.add: [%s]", ErrPermission, e.Err, strings.Join(e.Capabilities, " and CAP_"),
		strings.Join(e.Capabilities, ", "))
}

// Unwrap returns ErrPermission and the answer.
func (e *PermissionError) Unwrap() []error { return []error{ErrPermission, e.Err} }

// Outcome says what Apply did.
type Outcome string

// What Apply can have done.
const (
	Created   Outcome = "created"   // there was nothing of ours
	Replaced  Outcome = "replaced"  // there were other rules of ours
	Unchanged Outcome = "unchanged" // the same rules were there; nothing was written
)

// Difference is one thing in which the kernel differs from a Ruleset.
type Difference struct {
	// What names the table, set, chain or rule.
	What string
	// Rule is the ID of the rule that differs, if it is about one of ours.
	Rule RuleID
	// Problem says how it differs: "missing", "not ours", "changed", …
	Problem string
}

func (d Difference) String() string { return d.What + ": " + d.Problem }

// Counter is what one rule has counted.
type Counter struct {
	Chain string `json:"chain"`
	// Rule is the rule's ID. Empty: the kernel does not hold it, or the rule is not ours.
	Rule RuleID `json:"id"`
	// Line is the rule's line of the policy and Reason its reason.
	Line   string `json:"line"`
	Reason string `json:"reason"`
	// Family is "IPv4" or "IPv6" for a rule that is written once for each, else "".
	Family  string `json:"family,omitempty"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	// Uncounted is true of a rule that has no counter, so that Packets and Bytes say nothing ([Rule.Uncounted]).
	Uncounted bool `json:"uncounted,omitempty"`
}

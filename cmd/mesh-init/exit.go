package main

import (
	"errors"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
)

// The exit codes that are not tied to one error.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// errDrifted reports that check found differences.
var errDrifted = errors.New("drifted: the rules are not what this configuration makes")

// errNotVerified reports that verify found something amiss.
var errNotVerified = errors.New("interception does not work as this configuration asks")

// usageError marks what the caller has to correct.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// An exit is one way to end: its code, the error that leads to it, and what
// to do about it where the error does not say so itself.
type exit struct {
	code    int
	err     error
	meaning string
	remedy  string
}

// exits is the one table of exit codes.
func exits() []exit {
	return []exit{
		{code: exitDone, meaning: "done"},
		{code: exitFailed, meaning: "failed"},
		{code: exitUsage, meaning: "bad usage or configuration; nothing was touched"},
		{10, intercept.ErrNotIntercepted, "not intercepted: the namespace has none of our rules",
			"run mesh-init apply there, or name the pod's namespace with --netns"},
		{11, errDrifted, "drifted: check found differences",
			"run mesh-init apply with this configuration to put them right"},
		{12, intercept.ErrUnsupported, "the kernel, or a program to write rules with, lacks support",
			"mesh-init doctor says what is missing and what mends it"},
		{13, intercept.ErrPermission, "no permission", ""},
		{14, dataplane.ErrHostNetNS, "refused: the host's own network namespace", ""},
		{15, intercept.ErrForeign, "a table or chain of our name that someone else made", ""},
		{16, dataplane.ErrNotNetNS, "no network namespace at the path of --netns", ""},
		{17, intercept.ErrLocked, "another program held a lock for the whole wait",
			"wait for it, or wait longer with --iptables-wait"},
		{18, errNotVerified, "verify found that interception does not work", ""},
	}
}

// exitFor returns the exit for an error: the table's first that it is.
func exitFor(err error) exit {
	all := exits()
	var usage usageError
	switch {
	case err == nil:
		return all[exitDone]
	case errors.As(err, &usage):
		return all[exitUsage]
	}
	for _, e := range all {
		if e.err != nil && errors.Is(err, e.err) {
			return e
		}
	}
	return all[exitFailed]
}

// Package netns opens network namespaces, whatever people call them by, and
// runs functions in them. The work is that of github.com/vishvananda/netns;
// what is added is that nothing opened by mistake can hang the process, that a
// thread never goes on in the wrong namespace, and errors of a type.
package netns

import (
	"errors"

	"github.com/mesh-intercept/intercept/ruleset"
)

// ErrNotNetNS reports that there is no network namespace by the name that was
// given: nothing is there, or something else.
var ErrNotNetNS = errors.New("not a network namespace")

// Kind is what went wrong.
type Kind int

// The kinds of errors.
const (
	Failed    Kind = iota // a system call failed for another reason
	Gone                  // nothing is there: the file, the process, the container
	Other                 // what is there is no network namespace
	Malformed             // the spec cannot be the name of any
	Ambiguous             // the spec is the name of more than one
	Forbidden             // the process may not open, enter or make it
)

// Error is why a network namespace could not be opened, entered, left or made.
// It is [ErrNotNetNS] by [errors.Is] if its Kind is Gone, Other, Malformed or
// Ambiguous, and [ruleset.ErrPermission] if it is Forbidden.
type Error struct {
	Op   string // open, enter, leave or make
	Spec string // what was asked for; "" of one to be made
	Path string // what that is in the file system; "" if it was not found out
	Kind Kind
	Err  error  // the errno, or nil
	Hint string // what it may be, and what to do, or ""
}

func (e *Error) Error() string {
	text := e.Spec
	if e.Path != "" && e.Path != e.Spec {
		text += " (" + e.Path + ")"
	}
	switch e.Op {
	case "enter", "leave":
		text = e.Op + " network namespace " + text
	case "make":
		text = "make a network namespace"
	}
	if class := e.class(); class != nil {
		text += ": " + class.Error()
	}
	if e.Err != nil && e.Kind != Gone { // of which the hint says as much
		text += ": " + e.Err.Error()
	}
	if e.Hint != "" {
		text += ": " + e.Hint
	}
	return text
}

// Unwrap makes the error what [Error] says it is, and its errno.
func (e *Error) Unwrap() []error {
	var all []error
	for _, err := range []error{e.class(), e.Err} {
		if err != nil {
			all = append(all, err)
		}
	}
	return all
}

func (e *Error) class() error {
	switch e.Kind {
	case Gone, Other, Malformed, Ambiguous:
		return ErrNotNetNS
	case Forbidden:
		return ruleset.ErrPermission
	case Failed:
	}
	return nil
}

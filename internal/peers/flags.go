package peers

import (
	"errors"
	"fmt"
	"strings"
)

// FlagError is one thing wrong with a peer's command line.
type FlagError struct {
	// Flag is as it is written: "--proxy-uid".
	Flag string
	// Value is what was given, or the part of it that is wrong. Empty: nothing was given.
	Value string
	// Err says what is wrong, and what to write instead.
	Err error
	// Lenient is whether --lenient accepts it, as the peer does.
	Lenient bool
}

func (e *FlagError) Error() string {
	s := e.Flag
	if e.Value != "" {
		s += fmt.Sprintf(" %q", e.Value)
	}
	s += ": " + e.Err.Error()
	if e.Lenient {
		s += "; --lenient accepts it all the same"
	}
	return s
}

func (e *FlagError) Unwrap() error { return e.Err }

// Refuse adds to errs what --lenient accepts, or where that is given, a warning.
func (r *Request) Refuse(errs *[]error, flag, value, format string, args ...any) {
	e := &FlagError{Flag: flag, Value: value, Err: fmt.Errorf(format, args...)}
	if r.Lenient {
		r.Warn("%s", e)
		return
	}
	e.Lenient = true
	*errs = append(*errs, e)
}

// List is a flag that is a list: commas separate its items, and each time it is given more are added.
type List []string

// String returns the list as it is written.
func (l *List) String() string { return strings.Join(*l, ",") }

// Set adds what is given. Nothing adds nothing.
func (l *List) Set(s string) error {
	if s != "" {
		*l = append(*l, strings.Split(s, ",")...)
	}
	return nil
}

// Type names the type in help.
func (l *List) Type() string { return "list" }

// ErrNotNumber is what is said of text that should be a number.
var ErrNotNumber = errors.New("it is no number")

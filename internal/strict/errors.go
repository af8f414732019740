package strict

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Error is one mistake in a document.
type Error struct {
	// Path is the field: "outbound.exclude[1].ports". Empty: the whole document.
	Path string
	// Line counts from 1. Zero: it is not known.
	Line int
	Err  error
}

func (e *Error) Error() string {
	s := e.Err.Error()
	if e.Path != "" {
		s = e.Path + ": " + s
	}
	if e.Line > 0 {
		s += fmt.Sprintf(" (line %d)", e.Line)
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Most is how many mistakes are named one by one.
const Most = 20

// Errors collects mistakes. It keeps the first [Most] of them and counts the
// others: a long input is refused in a time and a text that stay small.
type Errors struct {
	list []error
	more int
	// next is the first of the others: where it is the only one, it is named, too.
	next error
}

// Add adds errors, each of those that are joined by itself. It passes over nil.
func (e *Errors) Add(errs ...error) {
	for _, err := range errs {
		for _, one := range Flatten(err) {
			var omitted Omitted
			switch {
			case errors.As(one, &omitted):
				e.more += int(omitted)
			case e.Full():
				if e.more == 0 {
					e.next = one
				}
				e.Omit()
			default:
				e.list = append(e.list, one)
			}
		}
	}
}

// Full reports whether the next error is counted only.
func (e *Errors) Full() bool { return len(e.list) >= Most }

// Omit counts an error that would not be named.
func (e *Errors) Omit() { e.more++ }

// None reports whether nothing was added.
func (e *Errors) None() bool { return len(e.list) == 0 }

// Err joins the errors, or returns nil if there are none. The last one says how
// many are not named.
func (e *Errors) Err() error {
	switch {
	case e.more == 0:
		return errors.Join(e.list...)
	case e.more == 1 && e.next != nil:
		return errors.Join(append(slices.Clone(e.list), e.next)...)
	}
	return errors.Join(append(slices.Clone(e.list), Omitted(e.more))...)
}

// Omitted is the error that stands for others that are not named: how many.
type Omitted int

func (n Omitted) Error() string {
	if n == 1 {
		return "and one more error"
	}
	return fmt.Sprintf("and %d more errors", int(n))
}

// Under puts a name before each of the errors that are joined in err.
func Under(name string, err error) error {
	var errs []error
	for _, e := range Flatten(err) {
		errs = append(errs, fmt.Errorf("%s: %w", name, e))
	}
	return errors.Join(errs...)
}

// Flatten returns the errors that errors.Join has joined, at any depth.
func Flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	var text []string
	for _, e := range joined.Unwrap() {
		all = append(all, Flatten(e)...)
		text = append(text, e.Error())
	}
	if err.Error() != strings.Join(text, "\n") {
		return []error{err} // a sentence around several errors (fmt.Errorf)
	}
	return all
}

// OneLine writes control characters as escapes: a token from outside can
// neither break a line in two nor move the cursor.
func OneLine(s string) string {
	if !strings.ContainsFunc(s, unicode.IsControl) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unicode.IsControl(r) {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Clip is the beginning of a text, as it is quoted in an error.
func Clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

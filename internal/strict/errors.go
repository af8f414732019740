package strict

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
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

// Reworded is an error with other words for a part of its text, such as a path
// that tells a reader nothing.
func Reworded(err error, words, others string) error {
	if err == nil || !strings.Contains(err.Error(), words) {
		return err
	}
	return reworded{strings.ReplaceAll(err.Error(), words, others), err}
}

type reworded struct {
	text string
	error
}

func (e reworded) Error() string { return e.text }

func (e reworded) Unwrap() error { return e.error }

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

// InLine is what an error says, in one line: of several that were joined, one after the other.
func InLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// Sentence is what an error says, in which those that were joined within it are one after the other. What else breaks its
// lines is somebody's token, and stays.
func Sentence(err error) string {
	text := err.Error()
	within := []error{errors.Unwrap(err)}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		within = joined.Unwrap()
	}
	var all, sentences []string
	for _, e := range within {
		if e != nil {
			all, sentences = append(all, e.Error()), append(sentences, Sentence(e))
		}
	}
	if len(all) > 1 && text == strings.Join(all, "\n") {
		return strings.Join(sentences, "; ")
	}
	for i, each := range all {
		text = strings.Replace(text, each, sentences[i], 1)
	}
	return text
}

// OneLine writes as escapes what a terminal does not print but acts by: a token
// from outside can neither break a line in two, nor move the cursor, nor turn the
// direction of writing. Bytes that are no UTF-8 are escaped, too.
func OneLine(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, acts) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case acts(r):
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// acts reports whether a terminal, or who writes text in lines, acts by a character
// in place of printing it: control characters, line separators, and what turns the
// direction of writing or has no width.
func acts(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }

// EscapedJSON returns a writer of JSON that escapes, in what passes through it, the
// characters of which [OneLine] tells. encoding/json leaves most of them as they
// are. The meaning of the JSON stays the same. Each Write has to be whole JSON
// values, as those of a log are.
func EscapedJSON(w io.Writer) io.Writer { return jsonEscaper{w} }

type jsonEscaper struct{ w io.Writer }

// Write implements [io.Writer].
func (e jsonEscaper) Write(p []byte) (int, error) {
	if _, err := e.w.Write(EscapeJSON(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// EscapeJSON is what [EscapedJSON] writes of some JSON.
func EscapeJSON(text []byte) []byte {
	// Outside of strings JSON has ASCII alone, and inside it has no ASCII control character but DEL.
	unsafe := func(r rune) bool { return r >= 0x7f && acts(r) }
	if !bytes.ContainsFunc(text, unsafe) {
		return text
	}
	var out []byte
	for _, r := range string(text) {
		switch high, low := utf16.EncodeRune(r); {
		case !unsafe(r):
			out = utf8.AppendRune(out, r)
		case high != utf8.RuneError:
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}

// Clip is the beginning of a text, as it is quoted in an error.
func Clip(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

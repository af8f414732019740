package decode

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Hint names the candidate that is most like a misspelt name, if one is like
// it at all, or says what else helps.
func Hint(name string, candidates []string, otherwise string) string {
	if len(name) > 64 {
		return otherwise
	}
	best, least := "", 1+max(1, len(name)/4)
	for _, c := range candidates {
		if d := distance(name, c); d < least {
			best, least = c, d
		}
	}
	if best == "" {
		return otherwise
	}
	return "did you mean " + best + "?"
}

// distance is the number of letters to insert, delete or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
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

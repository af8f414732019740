package strict

import (
	"fmt"
	"strings"
)

// ParseList reads the text form of a list: items that commas or lines separate
// ([Tidy]), "none" for an empty list and "*" for all. all gives the meaning of that; where it is
// nil, "*" is an item like others. what is the word for one item. Bad items are
// reported all at once.
func ParseList[E any, L ~[]E](s, what string, all func() L, parse func(string) (E, error)) (L, error) {
	switch s = oneLine(Tidy(s), ","); {
	case s == "":
		return nil, fmt.Errorf(`empty %s list; write "none" for an empty list`, what)
	case s == "none":
		return nil, nil
	case s == "*" && all != nil:
		return all(), nil
	}
	list := make(L, 0, 1+strings.Count(s, ","))
	var errs Errors
	for item := range strings.SplitSeq(s, ",") {
		e, err := parseItem(strings.TrimSpace(item), what, s, all != nil, parse)
		if err != nil {
			errs.Add(err)
			continue
		}
		list = append(list, e)
	}
	if !errs.None() {
		return nil, errs.Err()
	}
	return list, nil
}

func parseItem[E any](item, what, of string, hasAll bool, parse func(string) (E, error)) (e E, err error) {
	switch {
	case item == "":
		return e, fmt.Errorf("empty item in %q; remove the extra comma", Clip(of))
	case item == "*" && hasAll:
		return e, fmt.Errorf(`"*" in %q: it means all and stands alone`, Clip(of))
	case item == "none":
		return e, fmt.Errorf(`"none" in %q: it means an empty list and stands alone`, Clip(of))
	case strings.HasPrefix(item, "-"):
		return e, fmt.Errorf("%q looks like a flag, not like one %s", Clip(item), what)
	}
	if words := strings.FieldsFunc(item, func(r rune) bool { return r == ';' || r == ' ' || r == '\t' }); len(words) > 1 {
		hint := ""
		if begin, _, semicolon := strings.Cut(item, ";"); semicolon && what == nameItem {
			hint = ", or " + Clip(begin) + "* for an interface that has the semicolon in its name"
		}
		return e, fmt.Errorf("%q: commas separate the items of a list; write %s%s", Clip(item),
			Clip(strings.Join(words, ",")), hint)
	}
	if len(item) > maxItem {
		return e, fmt.Errorf("%q is too long for one %s", Clip(item), what)
	}
	return parse(item)
}

// nameItem is the word for an item that is the name of an interface, which can have a semicolon.
const nameItem = "name"

// maxItem is longer than any item of a list, and short enough for an error.
const maxItem = 255

package strict

import (
	"fmt"
	"iter"
	"strings"
)

// MaxItems is how many items a list can have, and a document values: more than any kernel takes rules for, and few
// enough that what is made of them fits in memory.
const MaxItems = 1_000_000

// ParseList reads the text form of a list: items that commas or lines separate
// ([Tidy]), "none" for an empty list and "*" for all. all gives the meaning of that; where it is
// nil, "*" is an item like others. what is the word for one item. Bad items are
// reported all at once.
func ParseList[E any, L ~[]E](s, what string, all func() L, parse func(string) (E, error)) (L, error) {
	count, alone, err := countItems(s, what)
	switch {
	case err != nil || alone == "none":
		return nil, err
	case alone == "*" && all != nil:
		return all(), nil
	}
	list := make(L, 0, count)
	err = eachItem(s, what, all != nil, func(item string) error {
		e, err := parse(item)
		if err == nil {
			list = append(list, e)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// countItems returns how many items a list has at most, and the one that stands alone.
func countItems(s, what string) (count int, alone string, err error) {
	most := strings.Count(s, ",") + strings.Count(s, "\n") + 1
	for item := range items(s, ',') {
		if count++; count == 1 {
			alone = item
		} else if most <= MaxItems {
			count = most // of a long list that is known sooner
			break
		}
	}
	switch {
	case count == 0:
		return 0, "", fmt.Errorf(`empty %s list; write "none" for an empty list`, what)
	case count > MaxItems:
		return 0, "", fmt.Errorf("a list of %d items: there can be %d", count, MaxItems)
	case count > 1:
		alone = ""
	}
	return count, alone, nil
}

// eachItem hands the items of a list to parse that can be one, and returns what is wrong with any.
func eachItem(s, what string, hasAll bool, parse func(string) error) error {
	var errs Errors
	whole := ""
	for item := range items(s, ',') {
		if whole == "" && (item == "" || item == "*" || item == "none") {
			whole = Clip(oneLine(Tidy(s), ","))
		}
		err := checkItem(item, what, whole, hasAll)
		if err == nil {
			err = parse(item)
		}
		if err != nil {
			errs.Add(err)
		}
	}
	return errs.Err()
}

// items yields the items of a list as [oneLine] would separate them in its tidy text ([Tidy]).
func items(text string, separator byte) iter.Seq[string] {
	return func(yield func(string) bool) {
		begun, ended := false, false // there was a line; the last one ended with a separator
		for line := range strings.SplitSeq(text, "\n") {
			line = tidyLine(line)
			if line == "" {
				continue
			}
			if begun && !ended && line[0] == separator {
				if line = line[1:]; line == "" {
					ended = true
					continue
				}
			}
			begun, ended = true, line[len(line)-1] == separator
			if ended {
				line = line[:len(line)-1]
			}
			for more := true; more; {
				at := strings.IndexByte(line, separator)
				item := line
				if more = at >= 0; more {
					item, line = line[:at], line[at+1:]
				}
				if !yield(strings.TrimSpace(item)) {
					return
				}
			}
		}
		if ended {
			yield("")
		}
	}
}

func checkItem(item, what, of string, hasAll bool) error {
	switch {
	case item == "":
		return fmt.Errorf("empty item in %q; remove the extra comma", of)
	case item == "*" && hasAll:
		return fmt.Errorf(`"*" in %q: it means all and stands alone`, of)
	case item == "none":
		return fmt.Errorf(`"none" in %q: it means an empty list and stands alone`, of)
	case strings.HasPrefix(item, "-"):
		return fmt.Errorf("%q looks like a flag, not like one %s", Clip(item), what)
	}
	if parts := wrongly(item); len(parts) > 1 {
		hint := ""
		if begin, _, semicolon := strings.Cut(item, ";"); semicolon && what == nameItem {
			hint = ", or " + Clip(begin) + "* for an interface that has the semicolon in its name"
		}
		return fmt.Errorf("%q: commas separate the items of a list; write %s%s", Clip(item),
			Clip(strings.Join(parts, ",")), hint)
	}
	if len(item) > maxItem {
		return fmt.Errorf("%q is too long for one %s", Clip(item), what)
	}
	return nil
}

// wrongly are the parts of an item in which something else than commas separates items.
func wrongly(item string) []string {
	const others = "; \t"
	if strings.IndexByte(item, ';') < 0 && strings.IndexByte(item, ' ') < 0 && strings.IndexByte(item, '\t') < 0 {
		return nil // as mostly, and sooner known than by ContainsAny
	}
	return strings.FieldsFunc(item, func(r rune) bool { return strings.ContainsRune(others, r) })
}

// nameItem is the word for an item that is the name of an interface, which can have a semicolon.
const nameItem = "name"

// maxItem is longer than any item of a list, and short enough for an error.
const maxItem = 255

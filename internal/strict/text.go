package strict

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
)

// SetText sets what target points at from its text form, which is the same in a
// flag, a variable, a file and an annotation. A list is written with commas, or
// with semicolons if its items are structs, or with one item a line, and as none
// if it is empty. A 16-bit number is a port. White space around the text means
// nothing, but in a string, which is taken as it is.
func SetText(target any, text string) error {
	if s, ok := target.(*string); ok {
		*s = text
		return nil
	}
	if v := reflect.TypeOf(target); v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Slice {
		text = Tidy(text) // a list can be long, and who reads it passes over the rest
	}
	switch t := target.(type) {
	case interface{ Set(string) error }: // port ranges, lists, marks
		return t.Set(text)
	case *uint16:
		return setPort(t, text)
	case *uint32:
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is not a number from 0 to %d", Clip(text), uint32(1<<32-1))
		}
		*t = uint32(n)
		return nil
	case *bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is not true or false", Clip(text))
		}
		*t = text == "true"
		return nil
	case *netip.Addr:
		a, err := parseAddr(text)
		*t = a
		return err
	case *[]netip.Addr:
		return setList(t, "address", text, parseAddr)
	case *netip.AddrPort:
		a, err := parseAddrPort(text)
		*t = a
		return err
	case *[]netip.AddrPort:
		return setList(t, "address and port", text, parseAddrPort)
	case *[]string:
		return setList(t, nameItem, text, func(s string) (string, error) { return s, nil })
	case encoding.TextUnmarshaler:
		return t.UnmarshalText([]byte(text))
	}
	v := reflect.ValueOf(target).Elem()
	switch {
	case v.Kind() == reflect.String:
		v.SetString(text)
		return nil
	case v.Kind() == reflect.Slice && IsStruct(v.Type().Elem()):
		return setRules(v, text)
	}
	return fmt.Errorf("cannot be set: no text form of a %T is known", target)
}

// SetLines is [SetText] of a list that is a file of its own. Its errors name the lines, and are of type [*Error].
func SetLines(target any, text string) error {
	err := SetText(target, text)
	if err == nil {
		return nil
	}
	if Tidy(text) == "" {
		return &Error{Err: errors.New(`there is nothing in it; write "none" for an empty list`)}
	}
	// Which lines are they? Those that are only counted are not looked for.
	all := Flatten(err)
	var named []error
	line := 0
	for one := range strings.SplitSeq(text, "\n") {
		line++
		if len(named) == len(all) || len(named) == Most {
			break
		}
		// What separates items may stand at the end of a line, or at the beginning.
		if one = strings.Trim(tidyLine(one), ",; \t"); one == "" {
			continue
		}
		for _, e := range Flatten(SetText(reflect.New(reflect.TypeOf(target).Elem()).Interface(), one)) {
			named = append(named, &Error{Line: line, Err: e})
		}
	}
	if len(named) == 0 {
		return err
	}
	var errs Errors
	errs.Add(named...)
	if left := all[len(all)-1]; len(all) > Most {
		errs.Add(left)
	}
	return errs.Err()
}

// Tidy leaves out of a text what means nothing where it stands on several lines,
// as a block of YAML does: white space around a line, empty lines, and comments,
// which begin with a # at the beginning of a line or behind white space.
func Tidy(text string) string {
	if !strings.ContainsAny(text, "\n#") {
		return strings.TrimSpace(text)
	}
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if line = tidyLine(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// tidyLine is a line without comment and without white space around it.
func tidyLine(line string) string {
	for at := strings.IndexByte(line, '#'); at >= 0 && at < len(line); at++ {
		if line[at] == '#' && (at == 0 || line[at-1] == ' ' || line[at-1] == '\t') {
			line = line[:at]
		}
	}
	return strings.TrimSpace(line)
}

// oneLine makes one line of a tidy text: the end of a line separates items as the
// separator does, which may also stand there.
func oneLine(text, separator string) string {
	if !strings.Contains(text, "\n") {
		return text
	}
	lines := strings.Split(text, "\n")
	var b strings.Builder
	for i, line := range lines {
		b.WriteString(line)
		last := i == len(lines)-1
		if !last && !strings.HasSuffix(line, separator) && !strings.HasPrefix(lines[i+1], separator) {
			b.WriteString(separator)
		}
	}
	return b.String()
}

// Text is the inverse of [SetText]: the text form of a value.
func Text(value any) string {
	if v, ok := value.(encoding.TextMarshaler); ok {
		if text, err := v.MarshalText(); err == nil {
			return string(text)
		}
	}
	if v, ok := value.(interface{ String() string }); ok { // lists
		return v.String()
	}
	v := reflect.ValueOf(value)
	if v.Kind() != reflect.Slice {
		return fmt.Sprint(value)
	}
	if v.Len() == 0 {
		return "none"
	}
	items := make([]string, v.Len())
	for i := range items {
		items[i] = Text(v.Index(i).Interface())
	}
	if IsStruct(v.Type().Elem()) {
		return strings.Join(items, "; ")
	}
	return strings.Join(items, ",")
}

// setPort reads one port, or 0 or none for no port.
func setPort(port *uint16, text string) error {
	if text == "0" || text == "none" {
		*port = 0
		return nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	switch {
	case err == nil && text[0] != '0':
		*port = uint16(n)
		return nil
	case strings.Contains(strings.TrimPrefix(text, "-"), "-"):
		return fmt.Errorf("%q is a range; there can be one port here", Clip(text))
	}
	return fmt.Errorf("%q is not a port (a number from 1 to 65535)", Clip(text))
}

func setList[E any](list *[]E, what, text string, parse func(string) (E, error)) (err error) {
	*list, err = ParseList[E, []E](text, what, nil, parse)
	return err
}

// setRules reads structs that have a text form, separated by semicolons.
func setRules(list reflect.Value, text string) error {
	list.SetZero()
	text = Tidy(text)
	if text == "none" {
		return nil
	}
	var errs Errors
	for item := range strings.SplitSeq(oneLine(text, ";"), ";") {
		item = strings.TrimSpace(item)
		rule := reflect.New(list.Type().Elem())
		if err := SetText(rule.Interface(), item); err != nil {
			errs.Add(Under(strconv.Quote(Clip(item)), err))
			continue
		}
		list.Set(reflect.Append(list, rule.Elem()))
	}
	return errs.Err()
}

func parseAddrPort(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, fmt.Errorf("%q is not an address and a port (as in 169.254.20.10:53 or [fd00::10]:53)", Clip(s))
	}
	return a, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("%q is not an address (as in 10.0.0.10 or fd00::10)", Clip(s))
	}
	return a, nil
}

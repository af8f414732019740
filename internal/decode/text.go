package decode

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
)

// Set sets one of the values that a configuration is made of from its text
// form, which is the same in a flag, a variable, a file and an annotation.
func Set(target any, text string) error {
	switch t := target.(type) {
	case interface{ Set(string) error }: // PortRange, Ports, IDs, CIDRs, Mark
		return t.Set(text)
	case *uint16:
		return setPort(t, text)
	case *uint32:
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is not a number from 0 to %d", text, uint32(math.MaxUint32))
		}
		*t = uint32(n)
		return nil
	case *bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is not true or false", text)
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
		return setList(t, "name", text, func(s string) (string, error) { return s, nil })
	case *[]intercept.Exclusion:
		exclusions, err := parseExclusions(text)
		*t = exclusions
		return err
	case *[]intercept.InboundExclusion:
		exclusions, err := parseInboundExclusions(text)
		*t = exclusions
		return err
	case encoding.TextUnmarshaler: // Protocol
		return t.UnmarshalText([]byte(text))
	}
	if v := reflect.ValueOf(target).Elem(); v.Kind() == reflect.String { // InboundMode, DNSMode, Families, Treatment
		v.SetString(text)
		return nil
	}
	// A field of a new kind: TestEveryFieldCanBeRead fails before users see this.
	return fmt.Errorf("cannot be set: no text form of a %T is known", target)
}

// setPort reads one port, or 0 or none for no port.
func setPort(port *uint16, text string) error {
	if text == "0" || text == "none" {
		*port = 0
		return nil
	}
	r, err := intercept.ParsePortRange(text)
	switch {
	case err != nil:
		return err
	case r.First != r.Last:
		return fmt.Errorf("%q is a range; there can be one port here", text)
	}
	*port = r.First
	return nil
}

func setList[E any](list *[]E, what, text string, parse func(string) (E, error)) error {
	*list = nil
	if text == "none" {
		return nil
	}
	var errs []error
	for item := range strings.SplitSeq(text, ",") {
		item = strings.TrimSpace(item)
		var e E
		var err error
		switch {
		case item == "":
			err = fmt.Errorf("empty item in %q; remove the extra comma", text)
		case item == "none":
			err = fmt.Errorf(`"none" in %q: it means an empty list and stands alone`, text)
		case strings.HasPrefix(item, "-"):
			err = fmt.Errorf("%q looks like a flag, not like one %s", item, what)
		default:
			e, err = parse(item)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		*list = append(*list, e)
	}
	return errors.Join(errs...)
}

func parseAddrPort(s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address and a port (as in 169.254.20.10:53 or [fd00::10]:53)", s)
	}
	return a, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an address (as in 10.0.0.10 or fd00::10)", s)
	}
	return a, nil
}

// SetField sets the field of c at a path such as "outbound.excludePorts" from
// its text form. On error it leaves the field as it is.
func SetField(c *intercept.Config, path, text string) error {
	v := reflect.ValueOf(c).Elem()
	for name := range strings.SplitSeq(path, ".") {
		v = fieldByName(v, name)
	}
	fresh := reflect.New(v.Type())
	if err := Set(fresh.Interface(), text); err != nil {
		return err
	}
	v.Set(fresh.Elem())
	return nil
}

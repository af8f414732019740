package ruleset

import (
	"errors"
	"fmt"
	"strings"
)

// maxInterface is IFNAMSIZ of linux/if.h, less the final zero.
const maxInterface = 15

// ValidateInterface reports a name, or the beginning of one and a `*`, that no interface has or that cannot stand in a
// rule.
func ValidateInterface(name string) error {
	stem := strings.TrimSuffix(name, "*")
	switch {
	case name == "":
		return errors.New("empty interface name")
	case name == "none":
		return errors.New(`"none" is an empty list; leave the others out, or write []`)
	case stem == "":
		return fmt.Errorf("%q is every interface: nothing would be captured", name)
	case strings.Contains(name, "@"):
		// What follows is its other end, or the interface that it is on. The kernel would take it for a part of a name.
		own, _, _ := strings.Cut(name, "@")
		return fmt.Errorf("%q is how ip(8) lists an interface; its name is %q", name, own)
	case len(name) > maxInterface:
		return fmt.Errorf("interface %q has %d bytes; a name has at most %d (IFNAMSIZ)", name, len(name), maxInterface)
	case strings.HasPrefix(name, "-"):
		return fmt.Errorf("%q looks like a flag, not an interface", name)
	case strings.HasPrefix(name, "#"):
		return fmt.Errorf("%q looks like a comment, not an interface", name)
	case strings.Contains(stem, "*"):
		return fmt.Errorf("interface %q: `*` stands for any ending, so it can only be last", name)
	case stem == "." || stem == "..":
		return fmt.Errorf("%q is not an interface name", name)
	}
	// dev_valid_name in net/core/dev.c; and what would need quoting in a rule or a list.
	never := func(r rune) bool { return r <= ' ' || r == 0x7f || r == '/' || r == ':' }
	for at, r := range stem {
		switch quoted := strings.ContainsRune(`"\+,;`, r) || r > 0x7f; {
		case never(r) || quoted && at == 0:
			return fmt.Errorf("interface %q: %q cannot be in an interface name", name, string(r))
		case quoted:
			return fmt.Errorf("interface %q: commas separate names, and one with %q in it can only be given by its beginning: "+
				"%s*", name, string(r), stem[:at])
		}
	}
	return nil
}

// InterfaceMatches reports whether a network interface has a name, or begins with one that ends in `*`.
func InterfaceMatches(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

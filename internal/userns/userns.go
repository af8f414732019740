// Package userns knows which users and groups there are in the user namespace of this process (user_namespaces(7)).
package userns

import (
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/internal/procfile"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Kind is a kind of IDs.
type Kind string

// The kinds of IDs, as /proc calls them.
const (
	UIDs Kind = "uid"
	GIDs Kind = "gid"
)

// Mapped returns the IDs that are mapped: those that a process can have, and that the kernel takes from one. They are
// all where the kernel has no user namespaces.
func Mapped(k Kind) ruleset.IDs {
	text, err := procfile.Read("/proc/self/" + string(k) + "_map")
	if err != nil {
		return everyone()
	}
	return parse(string(text))
}

func everyone() ruleset.IDs { return ruleset.IDs{{First: 0, Last: ruleset.MaxID}} }

// parse reads a map: lines of the first ID inside, the first one outside, and how many there are.
func parse(text string) ruleset.IDs {
	var ids ruleset.IDs
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) != 3 {
			continue
		}
		inside, err := strconv.ParseUint(words[0], 10, 32)
		count, err2 := strconv.ParseUint(words[2], 10, 32)
		if err == nil && err2 == nil && count > 0 {
			ids = append(ids, ruleset.IDRange{First: uint32(inside), Last: uint32(inside + count - 1)})
		}
	}
	return ids
}

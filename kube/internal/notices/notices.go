// Package notices has the licences of the modules that the programs are built
// from. They ask that their texts come with the programs.
package notices

import (
	_ "embed"
	"strings"
)

// Text lists each module with its licence, and has the texts of all of them. A test keeps it current.
//
//go:embed third_party.txt
var Text string // nothing writes it

// License returns the licence of a module as an SPDX expression; "" for a module that no program is built from. The
// standard library is "std".
func License(module string) string {
	_, list, _ := strings.Cut(Text, begin)
	list, _, _ = strings.Cut(list, end)
	for line := range strings.Lines(list) {
		path, expression, _ := strings.Cut(strings.TrimSpace(line), " ")
		if path == module {
			return strings.TrimSpace(expression)
		}
	}
	return ""
}

// The list of modules is between these.
const (
	begin = "Modules:\n\n"
	end   = "\nTexts:\n"
)

package iptables

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// LegacyHolds reports whether legacy tables of the calling thread's namespace have chains of ours. It needs no program,
// and asks for no table that is not there already: asking the kernel for one makes it.
func LegacyHolds(f ruleset.Family) (bool, error) { return legacyHolds(f) }

// IsOurs reports whether a chain of this name was made by this package to mark a table: where it is, there are rules of
// ours, or what was made for them.
func IsOurs(chain string) bool {
	return strings.HasPrefix(chain, specPrefix) || strings.HasPrefix(chain, madePrefix)
}

// legacyTables returns the tables of the legacy variant that the namespace of the calling thread has. It asks for none,
// so it brings none about.
func legacyTables(f ruleset.Family) ([]string, error) {
	file := "ip_tables_names"
	if f == ruleset.IPv6 {
		file = "ip6_tables_names"
	}
	names, err := os.ReadFile("/proc/thread-self/net/" + file)
	switch {
	case err == nil:
		return strings.Fields(string(names)), nil
	case errors.Is(err, fs.ErrNotExist): // nor such tables in this kernel
		return nil, nil
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w: %w", ruleset.ErrPermission, err)
	}
	return nil, fmt.Errorf("list the legacy tables: %w", err)
}

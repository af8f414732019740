package iptables

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/gvisor"
	"github.com/mesh-intercept/intercept/internal/procfile"
	"github.com/mesh-intercept/intercept/ruleset"
)

// LegacyHolds reports whether legacy tables of the calling thread's namespace have chains of ours. It needs no program,
// and asks for no table that is not there already: asking the kernel for one makes it.
func LegacyHolds(f ruleset.Family) (bool, error) { return LegacyHas(f, specPrefix) }

// LegacyHas reports whether legacy tables of the calling thread's namespace have a chain whose name begins with a
// prefix. It needs as much as [LegacyHolds].
func LegacyHas(f ruleset.Family, prefix string) (bool, error) { return legacyHas(f, prefix) }

// DialectHere returns what the legacy variant can say to this kernel: Minimal if it has no comments. It asks the kernel
// and writes nothing. What cannot be found out is Standard, so that whoever writes is told what is missing.
func DialectHere() Dialect {
	for _, f := range families() {
		if has, known := knows(f, extension{name: "comment"}); known && !has || !known && gvisor.Here() {
			return Minimal
		}
	}
	return Standard
}

// ErrHidden reports that a process may not know which tables of iptables-legacy there are: the kernel shows their names
// to root alone.
var ErrHidden = errors.New("the tables of iptables-legacy are hidden from this user")

// IsOurs reports whether a chain of this name was made by this package to mark a table: where it is, there are rules of
// ours, or what was made for them.
func IsOurs(chain string) bool {
	return strings.HasPrefix(chain, specPrefix) || strings.HasPrefix(chain, madePrefix)
}

// HasOurName reports whether a chain has a name as this package gives them.
func HasOurName(chain string) bool { return strings.HasPrefix(chain, prefix) }

// IsTable reports whether rules of ours can be in a table of this name.
func IsTable(name string) bool { return slices.Contains(tableNames(), name) }

// IsBuiltin reports whether a base chain is as iptables-nft makes and knows it.
func IsBuiltin(c beside.Chain) bool {
	return c.Name == builtinName(c.Hook) && c.Priority == legacyPriority(c.Table, c.Hook)
}

// LegacyChains returns the chains of the legacy tables of a family that the calling thread's namespace has, with their
// rules. Like [LegacyHolds] it needs no program, and asks for no table that is not there already.
func LegacyChains(f ruleset.Family) (all []beside.Chain, err error) {
	err = legacyContents(f, func(table string, info, entries []byte) bool {
		all = append(all, legacyChains(f, table, info, entries)...)
		return true
	})
	return all, err
}

// legacyTables returns the tables of the legacy variant that the namespace of the calling thread has. It asks for none,
// so it brings none about.
func legacyTables(f ruleset.Family) ([]string, error) {
	file := "ip_tables_names"
	if f == ruleset.IPv6 {
		file = "ip6_tables_names"
	}
	names, err := procfile.Read("/proc/thread-self/net/" + file)
	switch {
	case err == nil:
		return strings.Fields(string(names)), nil
	case errors.Is(err, fs.ErrNotExist):
		if gvisor.Here() {
			return gvisorTables(), nil // it has them all the time, and does not list them
		}
		return nil, nil // nor such tables in this kernel
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %w: %w; it takes user 0 or CAP_DAC_READ_SEARCH", ruleset.ErrPermission, ErrHidden, err)
	}
	return nil, fmt.Errorf("list the legacy tables: %w", err)
}

package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Program is a program of iptables that is here.
type Program struct {
	Path    string  `json:"path"`
	Family  string  `json:"family"` // "IPv4" or "IPv6"
	Variant Variant `json:"variant"`
	Version string  `json:"version"` // such as "1.8.9"
	// Waits is whether it waits for the lock of xtables while another program holds it. iptables-restore of an older
	// version fails at once, and does not know that it should.
	Waits bool `json:"waits"`
}

// Programs asks the programs for their versions. Beside an error it returns those that said.
func (r *Runner) Programs(ctx context.Context) ([]Program, error) {
	var all []Program
	err := r.each(ctx, func(f ruleset.Family, path string, h goIPTables) error {
		major, minor, patch := h.GetIptablesVersion()
		version := []int{major, minor, patch}
		all = append(all, Program{Path: path, Family: f.String(), Variant: r.o.Variant,
			Version: fmt.Sprintf("%d.%d.%d", major, minor, patch),
			Waits:   r.o.Variant == NFT || slices.Compare(version, []int{1, 6, 2}) >= 0})
		return nil
	})
	return all, err
}

// OtherRule is somebody else's rule in a built-in chain in which rules of ours stand, or would.
type OtherRule struct {
	Family string `json:"family"` // "IPv4" or "IPv6"
	Table  string `json:"table"`
	Chain  string `json:"chain"`
	Rule   string `json:"rule"` // its conditions and its target, as iptables takes them
	// Earlier is whether it stands before the rule that leads to ours: what it decides, ours are not asked. It is false
	// where no rule leads to ours.
	Earlier bool   `json:"earlier"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Others lists the rules of others in the built-in chains that ours share, in the order packets meet them. It looks
// into the tables that there are, so it brings none about. Beside an error it returns what could be listed.
func (r *Runner) Others(ctx context.Context) ([]OtherRule, error) {
	if path := systemLock(); r.o.Variant == Legacy && isFIFO(os.Stat(path)) {
		return nil, lockIsFIFO(path)
	}
	var all []OtherRule
	if !slices.ContainsFunc(families(), func(f ruleset.Family) bool {
		tables, err := r.tables(ctx, f)
		return err != nil || len(tables) > 0
	}) {
		return nil, ctx.Err() // and no program is started
	}
	err := r.each(ctx, func(f ruleset.Family, _ string, h goIPTables) error {
		tables, err := r.tables(ctx, f)
		errs := []error{err}
		for _, t := range tableNames() {
			if !slices.Contains(tables, t) {
				continue
			}
			for _, chain := range builtinsOf(t) {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				lines, err := h.ListWithCounters(t, chain)
				if err != nil {
					errs = append(errs, fmt.Errorf("table %s: %w", t, err))
					break // the other chains would say the same
				}
				all = append(all, others(lines, OtherRule{Family: f.String(), Table: t, Chain: chain})...)
			}
		}
		return errors.Join(errs...)
	})
	return all, err
}

// builtinsOf are the built-in chains of a table that can lead to ours. See home.
func builtinsOf(table string) []string {
	if table == "filter" {
		return []string{"INPUT", "FORWARD", "OUTPUT"}
	}
	return []string{"PREROUTING", "OUTPUT"}
}

// others reads what iptables -v -S prints for a chain, without the rules that lead to ours. in says where they stand.
func others(lines []string, in OtherRule) (rules []OtherRule) {
	for _, line := range lines {
		spec, isRule := strings.CutPrefix(line, "-A "+in.Chain)
		switch {
		case !isRule:
		case (savedRule{spec: spec}).isJump():
			for i := range rules {
				rules[i].Earlier = true
			}
		default:
			rule := in
			rule.Rule, rule.Packets, rule.Bytes = cutCounters(spec)
			rules = append(rules, rule)
		}
	}
	return rules
}

// cutCounters takes "-c PACKETS BYTES" out of a rule. It stands in the midst of it, and could stand in its comment.
func cutCounters(spec string) (rule string, packets, bytes uint64) {
	for _, at := range regexp.MustCompile(` -c (\d+) (\d+)( |$)`).FindAllStringSubmatchIndex(spec, -1) {
		before := spec[:at[0]]
		if (strings.Count(before, `"`)-strings.Count(before, `\"`))%2 != 0 {
			continue // it is quoted
		}
		packets, _ = strconv.ParseUint(spec[at[2]:at[3]], 10, 64)
		bytes, _ = strconv.ParseUint(spec[at[4]:at[5]], 10, 64)
		spec = before + spec[at[5]:]
		break
	}
	return strings.TrimSpace(spec), packets, bytes
}

// tables returns the tables of the variant that the namespace has.
func (r *Runner) tables(ctx context.Context, f ruleset.Family) ([]string, error) {
	switch {
	case r.o.Variant == Legacy:
		return legacyTables(f)
	case r.o.Objects == nil:
		return tableNames(), nil
	}
	chains, err := r.o.Objects.BaseChains(ctx, f)
	var names []string
	for name := range chains {
		names = append(names, name)
	}
	return names, err
}

// goIPTables is what is used of go-iptables, which does not build on every system.
type goIPTables interface {
	GetIptablesVersion() (major, minor, patch int)
	ListWithCounters(table, chain string) ([]string, error)
}

// lister returns the path of the program of a family that belongs to the one that restores.
func (r *Runner) lister(f ruleset.Family) (string, error) {
	restore := r.programs[f].restore
	if len(restore) == 1 {
		if path, ok := lookPath(strings.TrimSuffix(restore[0], "-restore")); ok {
			return path, nil
		}
	}
	name := baseName(f) + "-" + string(r.o.Variant)
	if path, ok := lookPath(name); ok {
		return path, nil
	}
	return "", fmt.Errorf("%w: there is %s, but no %s", ruleset.ErrUnsupported, restore[0], name)
}

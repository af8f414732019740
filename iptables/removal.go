package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/ruleset"
)

// RemoveForeign takes the chains of a mesh, the rules of built-in chains that lead to them, and rules with its comments
// out of the tables of the runner's variant, of both families or of neither. undo puts them back, with their counters,
// at their places.
func (r *Runner) RemoveForeign(ctx context.Context, m beside.Mesh) (undo func(context.Context) error, err error) {
	s, err := r.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer s.end()
	have, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	var done []ruleset.Family
	back := func(ctx context.Context, s *session) error {
		var errs []error
		for _, f := range done {
			_, input := have[f].without(m)
			errs = append(errs, s.restore(ctx, program{family: f}, input))
		}
		return errors.Join(errs...)
	}
	for _, f := range families() {
		input, _ := have[f].without(m)
		if input == "" {
			continue
		}
		if err := s.restore(ctx, program{family: f}, input); err != nil {
			err = fmt.Errorf("%s: remove the rules of %s: %w", f, m.Title, err)
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
			defer cancel()
			if left := back(ctx, s); left != nil {
				return nil, fmt.Errorf("%w; what was removed before it could not be put back: %w", err, left)
			}
			return nil, err
		}
		done = append(done, f)
	}
	return func(ctx context.Context) error {
		s, err := r.begin(ctx)
		if err != nil {
			return err
		}
		defer s.end()
		return back(ctx, s)
	}, nil
}

// without returns the input that takes a mesh's rules out of the tables, and the one that puts them back. Both are
// empty if there are none.
func (l listing) without(m beside.Mesh) (remove, restore string) {
	var out, back strings.Builder
	for _, t := range l {
		var chains, rules, backChains, backRules []string
		for _, c := range t.chains {
			theirs := !c.builtin && m.HasChain(c.name)
			alone := c.builtin && m.WritesNameless() && t.hasMesh(m) && !slices.ContainsFunc(c.rules, func(r savedRule) bool {
				return !r.isOf(m, true) && !r.isJump() && !r.isIdle()
			})
			if theirs {
				chains = append(chains, c.name)
				backChains = append(backChains, ":"+c.name+" - [0:0]")
			}
			for i, r := range c.rules {
				switch {
				case theirs:
					backRules = append(backRules, r.counters()+" -A "+c.name+" "+r.spec)
				case r.isOf(m, c.builtin), alone && r.isIdle():
					rules = append(rules, "-D "+c.name+" "+r.spec)
					backRules = append(backRules, r.counters()+" -I "+c.name+" "+strconv.Itoa(i+1)+" "+r.spec)
				}
			}
		}
		if len(chains)+len(rules) == 0 {
			continue
		}
		for b, lines := range map[*strings.Builder][][]string{
			&out:  {prefixed(":", chains, " - [0:0]"), rules, prefixed("-X ", chains, "")},
			&back: {backChains, backRules},
		} {
			b.WriteString("*" + t.name + "\n")
			for _, part := range lines {
				for _, line := range part {
					b.WriteString(line + "\n")
				}
			}
			b.WriteString("COMMIT\n")
		}
	}
	return out.String(), back.String()
}

func prefixed(before string, all []string, after string) (out []string) {
	for _, s := range all {
		out = append(out, before+s+after)
	}
	return out
}

// hasMesh reports whether the table has chains of the mesh.
func (t savedTable) hasMesh(m beside.Mesh) bool {
	return slices.ContainsFunc(t.chains, func(c savedChain) bool { return !c.builtin && m.HasChain(c.name) })
}

// isIdle reports what [beside.Rule.Idle] says.
func (r savedRule) isIdle() bool {
	words := split(r.spec)
	i := slices.Index(words, "-j")
	return i >= 0 && i+1 < len(words) && (words[i+1] == "RETURN" || beside.IsMark(words[i+1])) &&
		!slices.Contains(words, "--comment")
}

// isOf reports whether a rule of somebody else's chain is the mesh's: by its comment or, in a built-in chain, because
// it leads to a chain of the mesh's.
func (r savedRule) isOf(m beside.Mesh, builtin bool) bool {
	words := split(r.spec)
	for i, w := range words[:max(len(words)-1, 0)] {
		switch w {
		case "--comment":
			if m.HasComment(words[i+1]) {
				return true
			}
		case "-j", "-g":
			if builtin && m.HasChain(words[i+1]) {
				return true
			}
		}
	}
	return false
}

package iptables

import (
	"context"
	"slices"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Place is where a rule is, as the kernel says of a packet that it traces. Number counts from 1.
type Place struct {
	Family       ruleset.Family
	Table, Chain string
	Number       int
}

// Text is a rule as iptables-save prints it, and its comment.
type Text struct{ Rule, Comment string }

// Texts returns the rules of the tables in which ours can be, anybody's. Where there is nothing of ours the error is
// [ruleset.ErrNotIntercepted].
func (r *Runner) Texts(ctx context.Context) (map[Place]Text, error) {
	have, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	all := map[Place]Text{}
	for f, l := range have {
		for _, t := range l {
			for _, c := range t.chains {
				for i, rule := range c.rules {
					text := Text{Rule: rule.spec}
					words := split(rule.spec)
					if at := slices.Index(words, "--comment"); at >= 0 && at+1 < len(words) {
						text.Comment = words[at+1]
					}
					all[Place{f, t.name, c.name, i + 1}] = text
				}
			}
		}
	}
	return all, nil
}

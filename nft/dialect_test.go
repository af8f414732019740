//go:build linux

package nft

import (
	"testing"

	"github.com/google/nftables/expr"

	"github.com/mesh-intercept/intercept/ruleset"
)

// TestRangesAsOneExpression: nft(8) 1.1 makes one expression of a range that 1.0.6 writes as two comparisons. Text that
// it has loaded is ours all the same, and a range that ends elsewhere is not.
func TestRangesAsOneExpression(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		last byte // what to add to the end of the ranges
		want ruleset.Outcome
	}{
		{"the same", 0, ruleset.Unchanged},
		{"to elsewhere", 1, ruleset.Replaced},
	} {
		_, b := namespace(t)
		rs := vocabulary()
		prog, err := compile(rs, oneTable)
		if err != nil {
			t.Fatal(err)
		}
		if n := joinRanges(t, prog, test.last); n < 3 {
			t.Fatalf("%s: %d ranges, fewer than the vocabulary has", test.name, n)
		}
		if err := b.write(prog, nil, 0); err != nil {
			t.Fatal(err)
		}
		diffs, err := b.Check(t.Context(), rs)
		if err != nil || (len(diffs) == 0) != (test.last == 0) {
			t.Errorf("%s: Check: %v, %v", test.name, diffs, err)
		}
		apply(t, b, rs, test.want)
	}
}

// joinRanges makes one expression of each two comparisons that are a range.
func joinRanges(t *testing.T, prog program, last byte) (n int) {
	t.Helper()
	for _, tab := range prog {
		for _, c := range tab.chains {
			for i := range c.rules {
				r := &c.rules[i]
				for j := range r.stmts {
					n += joinRange(&r.stmts[j], last)
				}
				encoded, err := encode(tab.family, r.stmts)
				if err != nil {
					t.Fatal(err)
				}
				r.encoded = encoded
			}
		}
	}
	return n
}

func joinRange(s *stmt, last byte) int {
	if len(s.exprs) < 2 {
		return 0
	}
	end := len(s.exprs) - 2
	from, is1 := s.exprs[end].(*expr.Cmp)
	to, is2 := s.exprs[end+1].(*expr.Cmp)
	if !is1 || !is2 || from.Op != expr.CmpOpGte || to.Op != expr.CmpOpLte {
		return 0
	}
	data := append([]byte(nil), to.Data...)
	data[len(data)-1] += last
	s.exprs = append(s.exprs[:end:end], &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: from.Data, ToData: data})
	return 1
}

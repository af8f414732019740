package picture_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/picture"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// TestFollow: a packet's way begins where packets come from, goes down, comes to the box of each rule that looks at it, and
// ends where its fate takes it.
func TestFollow(t *testing.T) {
	type at struct {
		column, row int
		picture.Box
	}
	random := rand.New(rand.NewPCG(30, 30))
	ends := map[string]int{}
	for range 300 {
		c := gen.Config(random)
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		p := picture.Of(rs)
		places := map[string]at{}
		for i, c := range p.Columns {
			for k, b := range c.Boxes {
				places[b.ID] = at{i, k, b}
			}
		}
		for range 20 {
			packet := gen.Packet(random)
			gen.Believe(random, c, &packet)
			trace, err := rs.Trace(packet)
			if err != nil {
				continue
			}
			nodes, steps := p.Follow(packet, trace)
			fail := func(format string, args ...any) {
				t.Helper()
				t.Fatalf("%+v: %s: %v, %v: "+format, append([]any{packet, trace.Fate, nodes, steps}, args...)...)
			}
			if len(nodes) == 0 || places[nodes[0]].Kind != picture.Event || places[nodes[0]].row != 0 {
				fail("it begins nowhere")
			}
			if len(steps) != len(trace.Steps) {
				fail("%d steps", len(trace.Steps))
			}
			for i, s := range trace.Steps {
				if box := places[steps[i]]; box.Title != s.Chain || !slices.Contains(box.Rules, s.Rule.ID) ||
					!slices.Contains(nodes, steps[i]) {
					fail("step %d, of %s, is in %+v", i, s.Chain, box)
				}
			}
			last := at{row: -1}
			for _, id := range nodes {
				box, there := places[id]
				if !there {
					fail("there is no %s", id)
				}
				if box.Kind == picture.Side {
					continue // from it a packet may come back; and of two chains that ask the same one it stands below the first
				}
				if box.column < last.column || box.column == last.column && box.row < last.row {
					fail("%s is above the one before", id)
				}
				last = box
			}
			end := places[nodes[len(nodes)-1]]
			want := map[ruleset.Action]string{
				ruleset.Redirected: "the proxy's port " + trace.Fate.Ports.String(), ruleset.Translated: trace.Fate.To.String(),
				ruleset.Transparent: "the proxy's port " + trace.Fate.Ports.String(),
			}[trace.Fate.Action]
			switch trace.Fate.Action {
			case ruleset.Redirected, ruleset.Translated, ruleset.Transparent:
				if end.Kind != picture.Proxy || end.Title != want {
					fail("it ends at %q, want %q", end.Title, want)
				}
			case ruleset.Rejected, ruleset.Dropped:
				if end.ID != steps[len(steps)-1] {
					fail("it ends at %q", end.Title)
				}
			case ruleset.Pass:
				want := end.Kind == picture.Event && end.row > 0
				discarded := packet.Hook == ruleset.Prerouting && packet.Interface != ruleset.Loopback &&
					(packet.Dst.Addr().IsLoopback() || packet.Foreign)
				if !want && !discarded {
					fail("it ends at %q", end.Title)
				}
			}
			ends[end.Title]++
		}
	}
	for _, want := range []string{"leaves the pod", "the app, or whoever has the port", "goes on to what is behind the pod"} {
		if ends[want] == 0 {
			t.Errorf("no packet came to %q: %v", want, ends)
		}
	}
}

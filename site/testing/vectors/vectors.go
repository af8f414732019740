// Package vectors has requests for package answer with what the library itself answers: random
// configurations, and random packets that meet their rules.
package vectors

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/permalink"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/site/answer"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// Vector is a request to explain, and what the library's model says of the packet.
type Vector struct {
	Request json.RawMessage `json:"request"`
	Fate    string          `json:"fate"`
	ID      ruleset.RuleID  `json:"id"`
	Steps   int             `json:"steps"`
}

// Explain makes so many vectors, each of another configuration. The seed decides what they are.
func Explain(seed uint64, n int) ([]Vector, error) {
	random := rand.New(rand.NewPCG(seed, seed))
	var all []Vector
	for len(all) < n {
		c := gen.Config(random)
		rs, err := intercept.Compile(c)
		if err != nil {
			return nil, err
		}
		p := gen.Packet(random)
		question, ok := asked(c, &p, random)
		if !ok {
			continue
		}
		trace, err := rs.Trace(p)
		if err != nil {
			continue // there can be no such packet
		}
		request, err := json.Marshal(answer.Request{
			Op: "explain", Source: answer.Source{Form: answer.FormFields, Fields: permalink.Fields(c)}, Packet: &question,
		})
		if err != nil {
			return nil, err
		}
		all = append(all, Vector{request, trace.Fate.String(), trace.Rule, len(trace.Steps)})
	}
	return all, nil
}

// asked describes a packet as a person does. It is not ok if the description would leave something open.
func asked(c intercept.Config, p *intercept.Packet, random *rand.Rand) (explain.Question, bool) {
	q := explain.Question{Dst: p.Dst.String(), Src: p.Src.String(), Proto: p.Protocol.String(), Interface: p.Interface}
	if random.IntN(10) == 0 {
		q.State, p.State = explain.StateInvalid, intercept.CTInvalid
	}
	if p.Hook == intercept.Output {
		q.UID, q.GID = id(p.Owner.UID), id(p.Owner.GID)
		if p.Mark != 0 {
			q.Mark = fmt.Sprintf("%#x", p.Mark)
		}
		return q, true
	}
	q.From = explain.FromOutside
	virtual := false
	for _, name := range c.VirtualInterfaces {
		virtual = virtual || ruleset.InterfaceMatches(name, p.Interface)
	}
	p.Listening = true // somebody has the port
	return q, p.Foreign == virtual
}

func id(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

package answer

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/arguments"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/whynot"
	"github.com/mesh-intercept/intercept/settings"
)

func explained(r Request) (any, error) {
	c, _, err := r.Source.config()
	if err != nil {
		return nil, in("source", err)
	}
	if r.Packet == nil {
		return nil, errNoPacket
	}
	a, err := explain.Ask(c, *r.Packet)
	if err != nil {
		return nil, err
	}
	out := Explained{Explanation: a.Explain(c, *r.Packet), Captured: whynot.Captured(a.Trace.Fate), Steps: []Step{},
		Way: []Passed{}, Command: command(c, *r.Packet)}
	rejects := a.Trace.Fate.Action == intercept.Rejected || a.Trace.Fate.Action == intercept.Dropped
	out.Meaning = string(intercept.MeaningOf(a.Trace.Rule, rejects))
	var base intercept.Chain
	for i, s := range a.Trace.Steps {
		if c := chainOf(a.Rules, s.Chain); c.Hook != 0 && c.Name != base.Name {
			base = c
			hook := c.Hook.String()
			if n := len(out.Way); n == 0 || out.Way[n-1].Hook != hook {
				out.Way = append(out.Way, Passed{Hook: hook})
			}
			last := &out.Way[len(out.Way)-1]
			last.Chains = append(last.Chains, c.Name)
		}
		out.Steps = append(out.Steps, Step{Step: out.Explanation.Steps[i], Hook: base.Hook.String(), Base: base.Name,
			Effect: effect(s)})
	}
	out.Change, out.End = change(a.Packet, a.Trace.Fate), endOf(c, a.Packet, a.Trace.Fate)
	out.Spared = spared(a)
	return out, nil
}

// spared follows the packet once more, without the rules that let it go.
func spared(a explain.Answer) *Spared {
	rs, trace := a.Rules, a.Trace
	rs.Chains = slices.Clone(rs.Chains)
	for trace.Fate.Action == intercept.Pass && trace.Rule != "" {
		last := trace.Rule
		for i, c := range rs.Chains {
			rs.Chains[i].Rules = slices.DeleteFunc(slices.Clone(c.Rules), func(r intercept.Rule) bool { return r.ID == last })
		}
		var err error
		if trace, err = rs.Trace(a.Packet); err != nil {
			return nil
		}
		if trace.Rule == last {
			return nil
		}
		if whynot.Captured(trace.Fate) {
			return &Spared{trace.Rule, trace.Reason, trace.Fate.String()}
		}
	}
	return nil
}

func chainOf(rs intercept.Ruleset, name string) intercept.Chain {
	for _, c := range rs.Chains {
		if c.Name == name {
			return c
		}
	}
	return intercept.Chain{}
}

// effect is what a rule that matched does to a packet which goes on.
func effect(s intercept.Step) string {
	if !s.Matched {
		return ""
	}
	switch s.Rule.Target.(type) {
	case intercept.SetMark, intercept.SetConnMark, intercept.CTZone:
		return s.Rule.Target.String()
	case intercept.Accept, intercept.Return, intercept.Drop, intercept.Reject, intercept.Jump, intercept.Goto,
		intercept.Redirect, intercept.DNAT, intercept.TProxy, intercept.Divert, intercept.Keep:
	}
	return ""
}

// change is what becomes of the destination. What is sent in the pod is redirected to the loopback address; what arrives,
// to an address of the interface by which it does (net/netfilter/nf_nat_redirect.c), which mostly is the one that it was sent
// to. What was sent to others, from behind the pod, goes to one that is not known here.
func change(p intercept.Packet, f intercept.Fate) *Rewrite {
	switch f.Action {
	case intercept.Redirected:
		to := p.Dst.Addr()
		if p.Hook == intercept.Output {
			if to = netip.IPv6Loopback(); p.Dst.Addr().Is4() {
				to = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
		}
		if p.Hook != intercept.Output && p.Foreign {
			return &Rewrite{p.Dst.String(), "the address of " + p.Interface + ", port " + f.Ports.String()}
		}
		after := netip.AddrPortFrom(to, f.Ports.First).String()
		if f.Ports.First != f.Ports.Last {
			after = strings.TrimSuffix(after, intercept.Port(f.Ports.First).String()) + f.Ports.String()
		}
		return &Rewrite{p.Dst.String(), after}
	case intercept.Translated:
		return &Rewrite{p.Dst.String(), f.To.String()}
	case intercept.Transparent:
		return &Rewrite{p.Dst.String(), p.Dst.String()}
	case intercept.Pass, intercept.Rejected, intercept.Dropped:
	}
	return nil
}

// command is a command line with the same answer.
func command(c intercept.Config, q explain.Question) string {
	words := []string{"mesh-init", "explain"}
	for _, arg := range append(q.Args(), settings.Args(c)...) {
		words = append(words, arguments.Quote(arg))
	}
	return strings.Join(words, " ")
}

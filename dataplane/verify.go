package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/trial"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

// Verify proves that interception works under c, or says what does not. It does what an app, the proxy and a client do,
// and watches what becomes of it: it opens connections under several users, asks for names, and comes in from outside,
// through a veth pair to a network namespace that it makes and removes. What package verify says of each is in the
// report.
//
// What it opens goes to addresses nobody has (RFC 5737, RFC 3849) where the configuration leaves the choice, and gets
// no further than the first router behind the pod if it is not captured: its hop limit is 1. What the rules send to a
// target outside the pod gets the usual hop limit, once it is seen to be on its way there. Its source ports are
// [verify.SourcePorts], less those that conntrack has an entry with, or that a socket has. At the end it takes its own
// entries out of conntrack.
//
// Where there are no rules of ours nothing is tried: the error is [ruleset.ErrNotIntercepted], and the report says so.
//
// With [Pod.StandIn] it listens in place of the proxy, as somebody that the rules take for it, and answers lookups.
func (s *Session) Verify(ctx context.Context, c intercept.Config) (report verify.Report, err error) {
	p, err := newPlan(c)
	if err != nil {
		return verify.Report{}, err
	}
	err = s.do(ctx, func() error {
		report, err = s.space.verify(ctx, s.pod, p)
		return err
	})
	return report, err
}

// ServedError is what Verify reports, with [Pod.StandIn], where somebody listens already.
type ServedError = trial.ServedError

// AstrayError is what [Session.Arrive] says of a connection that came elsewhere, or nowhere.
type AstrayError = trial.AstrayError

// Arrive proves that a connection is captured, without a configuration and without privilege: it listens at an address,
// which stands for the proxy's, opens a connection to another, and waits until that comes to where it listens. It fails
// with an [AstrayError] if it does not, at the latest when ctx ends. It is allowed in the host's network namespace.
func (s *Session) Arrive(ctx context.Context, listen, to netip.AddrPort) error {
	return s.do(ctx, func() error { return trial.Arrive(ctx, listen, to) })
}

// howLong is how long verify waits for answers.
const howLong = 2500 * time.Millisecond

func (s *space) verify(ctx context.Context, target Pod, plan plan) (report verify.Report, err error) {
	want := target.Backend
	rules, err := s.verifyRules(ctx, want, plan)
	if errors.Is(err, ruleset.ErrNotIntercepted) {
		return verify.Conclude([]verify.Verdict{rules}, verify.Coverage{}, nil), err
	}
	if err != nil {
		return verify.Report{}, err
	}
	c, rs := plan.config, s.inForce(want, plan)
	o := trial.Options{Patience: howLong,
		Count: func() (trial.Counts, error) { return s.counts(ctx, want, &plan) }}
	o.Refuses, o.Discards = refuses(rs)
	if target.StandIn {
		standIns, failed := trial.Listen(c, rs.Families)
		if failed != nil {
			return verify.Report{}, failed
		}
		o.StandIn = &standIns.Owner
		defer func() { err = errors.Join(err, standIns.Close()) }()
	}
	others := s.foreign(s.backendInForce(want)).Chains
	todo, seen, err := s.try(ctx, c, rs, others, o)
	for range 3 {
		if !errors.Is(err, fs.ErrExist) {
			break
		}
		// Another verify has taken the same name or address for a client, in between. Each is chosen by chance.
		todo, seen, err = s.try(ctx, c, rs, others, o)
	}
	if err != nil {
		return verify.Report{}, err
	}
	verdicts := []verify.Verdict{rules}
	for i, p := range todo.Probes {
		blame(others, p, &seen[i])
		verdicts = append(verdicts, verify.Judge(c, p, seen[i]))
	}
	verdicts = append(verdicts, todo.Verdicts...)
	for i, p := range todo.Probes {
		if seen[i].Answer != "" {
			todo.Notes = append(todo.Notes, fmt.Sprintf("%s: the resolver answers %s to a name that nobody has: see whether it "+
				"does to every name", p.What, seen[i].Answer))
		}
	}
	todo.Notes = append(todo.Notes, behind(others)...)
	if used, most, err := tracked(); err == nil {
		if full := fullness(used, most); full != "" {
			todo.Notes = append(todo.Notes, full)
		}
	}
	verdicts = append(verdicts, apart(others, plan.config, todo.Probes)...)
	verdicts = append(verdicts, leaving(others)...)
	verdicts = append(verdicts, ofSomeUsers(others, plan.config, verdicts)...)
	if target.StandIn {
		todo.Notes = append(todo.Notes, "a stand-in listened in place of the proxy: whether the proxy does, and who it is, "+
			"was not tried")
	}
	return verify.Conclude(verdicts, todo.Coverage, todo.Notes), nil
}

// try plans what to try in the pod as it is now, and tries it.
func (s *space) try(ctx context.Context, c intercept.Config, rs ruleset.Ruleset, others []beside.Foreign,
	o trial.Options) (verify.Plan, []verify.Seen, error) {
	pod, err := trial.Look(c)
	if err != nil {
		return verify.Plan{}, nil, err
	}
	for _, f := range others {
		captured := f.Mistracks() || f.TakesCaptured()
		if !captured && !f.TakesLetGo() {
			continue
		}
		named := verify.Other{Captured: captured, Families: familiesOf(f), Hook: f.Hook, Ports: f.Called}
		if slices.Contains(f.Acts, beside.Redirect) { // whom others are sent to is not to be disturbed
			named.Dsts = f.Dsts
		}
		pod.Others = append(pod.Others, named)
	}
	todo := verify.MakePlan(c, rs, pod, verify.RandomPort())
	if s.gvisor { // its rules count nothing
		o.Count = nil
		todo = todo.WithoutCounters()
	}
	o.Ways = append(pod.Behind, pod.Outside)
	seen, err := trial.Run(ctx, todo.Probes, o)
	return todo, seen, err
}

// familiesOf are those of whose packets any come to a chain of others.
func familiesOf(f beside.Foreign) []ruleset.Family {
	switch f.Family {
	case "ip":
		return []ruleset.Family{ruleset.IPv4}
	case "ip6":
		return []ruleset.Family{ruleset.IPv6}
	}
	return []ruleset.Family{ruleset.IPv4, ruleset.IPv6}
}

// blame says of what was seen of a probe which chains of others can have done it.
func blame(others []beside.Foreign, p verify.Probe, seen *verify.Seen) {
	for i := range others {
		f := &others[i]
		here := f.Hook == p.Packet.Hook.String()
		arrives := f.Hook == ruleset.Input.String() && (p.Outside() || p.Trace.Fate.Action == ruleset.Redirected) ||
			f.Hook == beside.Ingress && p.Outside()
		if !slices.Contains(familiesOf(*f), p.Family()) || !here && !arrives {
			continue
		}
		if here && f.Translates() {
			t := verify.Translator{Name: f.Name(), Rest: f.Effect == beside.TakesRest}
			if !slices.Contains(f.Acts, beside.DNAT) {
				t.Ports = f.Ports
			}
			seen.Translators = append(seen.Translators, t)
		}
		switch {
		case f.Effect == beside.Untracks:
			seen.Untrackers = append(seen.Untrackers, f.Name())
		case f.Effect != beside.MayDiscard:
		case f.Asked == beside.Before:
			seen.Before = append(seen.Before, f.Name())
		default:
			seen.After = append(seen.After, f.Name())
		}
	}
}

// apart names the chains of others that can stop or take what arrives by the pod's own interfaces alone: what was tried
// came in by another.
func apart(others []beside.Foreign, c intercept.Config, probes []verify.Probe) (all []verify.Verdict) {
	i := slices.IndexFunc(probes, func(p verify.Probe) bool { return p.Outside() && p.At.IsValid() && p.Hops == 1 })
	if i < 0 {
		return nil
	}
	pair := probes[i].Packet.Interface
	interfaces, err := links.List()
	if err != nil {
		return nil // it is known by then, from the look at the pod
	}
	isApart := func(pattern string) bool {
		return pattern == beside.SomeInterfaces || !ruleset.InterfaceMatches(pattern, pair) &&
			slices.ContainsFunc(interfaces, func(l links.Link) bool {
				return l.Name != ruleset.Loopback && ruleset.InterfaceMatches(pattern, l.Name) &&
					!excludes(c, l.Name)
			})
	}
	for _, f := range others {
		by := slices.DeleteFunc(slices.Clone(f.Interfaces), func(p string) bool { return !isApart(p) })
		if !f.Parts() || len(by) == 0 {
			continue
		}
		all = append(all, verify.Verdict{What: "clients by " + strings.Join(by, ", "), Verdict: verify.NotProven,
			Found: fmt.Sprintf("%s, of another, does something to what arrives there alone (%s at hook %s, priority "+
				"%d: %s); verify comes in by one of its own, %s", f.Name(), f.Type, f.Hook, f.Priority, f.Effect, pair),
			Remedy: "connect to the pod from outside, and see that the proxy gets it; or accept it with --allow-unproven"})
	}
	return all
}

// leaving names the chains of others that discard what leaves the pod after all that is asked of packets here: of what is
// let go, verify sees no more.
func leaving(others []beside.Foreign) (all []verify.Verdict) {
	for _, f := range others {
		if f.Hook == beside.Egress && f.Effect == beside.MayDiscard {
			all = append(all, verify.Verdict{What: "what leaves the pod", Verdict: verify.NotProven,
				Found:  f.Name() + ", of another, " + f.Says() + "; verify does not see what becomes of that",
				Remedy: "make the proxy's call, and see with mesh-init trace that it leaves; or accept it with --allow-unproven"})
		}
	}
	return all
}

// ofSomeUsers names the chains of others that do something to what some users send alone: what was tried was sent by others.
// Those that have done something to that, too, are known.
func ofSomeUsers(others []beside.Foreign, c intercept.Config, tried []verify.Verdict) (all []verify.Verdict) {
	for _, f := range others {
		known := func(v verify.Verdict) bool { return v.Verdict == verify.Failed && strings.Contains(v.Found, f.Name()) }
		if touchesSome(f, c) && !slices.ContainsFunc(tried, known) {
			all = append(all, verify.Verdict{What: "apps of some users", Verdict: verify.NotProven,
				Found: f.Name() + ", of another, does something to what some users send alone (" + string(f.Effect) +
					"); verify sends as others",
				Remedy: "connect as the app's user, and see with mesh-init trace that the proxy gets it; or accept it with " +
					"--allow-unproven"})
		}
	}
	return all
}

// touchesSome reports whether a chain of others does something to what some users send and ours capture, or to what comes
// to the proxy of it. What is refused to some users has a reason, but for the proxy's ports.
func touchesSome(f beside.Foreign, c intercept.Config) bool {
	if !f.ByUser || f.Hook != ruleset.Output.String() {
		return false
	}
	if f.Effect == beside.MayDiscard {
		for _, p := range ports(c) {
			if slices.Contains(f.Called, p) {
				return true
			}
		}
	}
	return f.Mistracks() || f.TakesCaptured()
}

// behind names the chains of others that translate what ours let go: what the proxy sends is among it.
func behind(others []beside.Foreign) (notes []string) {
	for _, f := range others {
		if f.Hook == ruleset.Output.String() && f.TakesLetGo() {
			notes = append(notes, fmt.Sprintf("%s translates some of what our rules let go, perhaps what the proxy sends: the "+
				"proxy was tried at few ports", f.Name()))
		}
	}
	return notes
}

// refuses are the rules that refuse or discard, and those of them that discard.
func refuses(rs ruleset.Ruleset) (all, discard []ruleset.RuleID) {
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			switch r.Target.(type) {
			case ruleset.Reject:
				all = append(all, r.ID)
			case ruleset.Drop:
				all, discard = append(all, r.ID), append(discard, r.ID)
			case ruleset.Accept, ruleset.Return, ruleset.Jump, ruleset.Goto, ruleset.Redirect, ruleset.DNAT, ruleset.Keep,
				ruleset.TProxy, ruleset.Divert, ruleset.SetMark, ruleset.SetConnMark, ruleset.CTZone:
			}
		}
	}
	return all, discard
}

// verifyRules says whether the rules are as Apply leaves them. Where there are none the error is
// [ruleset.ErrNotIntercepted], and the verdict says so.
func (s *space) verifyRules(ctx context.Context, want Backend, plan plan) (verify.Verdict, error) {
	v := verify.Verdict{What: verify.Rules, Verdict: verify.OK, Found: "as this configuration makes them"}
	diffs, err := s.check(ctx, want, plan)
	switch {
	case errors.Is(err, ruleset.ErrNotIntercepted):
		v.Verdict, v.Found, v.Remedy = verify.Failed, err.Error(), "run mesh-init apply there"
		return v, err
	case err != nil:
		return v, err
	case len(diffs) > 0:
		v.Verdict = verify.Failed
		v.Found = Differences(diffs)
		v.Remedy = "mesh-init check names all, and mesh-init apply with this configuration puts them right; with --live, as they " +
			"were applied"
	}
	return v, nil
}

// Differences says what differs: the first, and how many more there are.
func Differences(diffs []ruleset.Difference) string {
	switch len(diffs) {
	case 0:
		return "nothing"
	case 1:
		return diffs[0].String()
	}
	return fmt.Sprintf("%s, and %d more", diffs[0], len(diffs)-1)
}

// inForce returns the rules as the backend that has them can have them.
func (s *space) inForce(want Backend, p plan) ruleset.Ruleset {
	if b := s.backendInForce(want); b != "" {
		return s.rulesFor(p, b)
	}
	return p.rules
}

// backendInForce is the backend that has rules, and the first of those that could if none has. Empty: there is none.
func (s *space) backendInForce(want Backend) Backend {
	all, err := candidates(want)
	if err != nil {
		return ""
	}
	holding, err := s.holding()
	if err != nil {
		return all[0]
	}
	return firstOf(all, holding)
}

// firstOf is the first backend that has rules and is one of those wanted, or else the first of these.
func firstOf(wanted, holding []Backend) Backend {
	if i := slices.IndexFunc(holding, func(b Backend) bool { return slices.Contains(wanted, b) }); i >= 0 {
		return holding[i]
	}
	return wanted[0]
}

// counts reads the rules' counters.
func (s *space) counts(ctx context.Context, want Backend, like *plan) (trial.Counts, error) {
	status, err := s.status(ctx, want, like)
	if err != nil && !errors.Is(err, ruleset.ErrNotIntercepted) {
		return nil, err
	}
	counts := trial.Counts{}
	for _, c := range status.Counters {
		counts[c.Rule] += c.Packets
	}
	return counts, nil
}

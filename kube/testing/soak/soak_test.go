//go:build linux

package soak

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

var (
	howLong = flag.Duration("soak.for", 0, "how long to go on; 0: one round")
	seed    = flag.Uint64("soak.seed", 1, "the seed of the configurations and of what befalls whom")
	writers = flag.Int("soak.writers", 2, "how many write rules of a pod at the same time")
)

// TestSoak is one round for each backend, or as many as fit into the time given.
func TestSoak(t *testing.T) {
	netlab.Require(t)
	for _, name := range []string{"nft", "ip", "iptables-nft-save", "iptables-legacy-save"} {
		netlab.RequireProgram(t, name)
	}
	c := &counts{}
	defer c.report(t)
	x := newTools(t)
	began := time.Now()
	var pods sync.WaitGroup
	for n, b := range []dataplane.Backend{dataplane.BackendNFT, dataplane.BackendIPTablesNFT,
		dataplane.BackendIPTablesLegacy} {
		p := newPod(t, c, b, x, *seed+uint64(n))
		a := newAgent(t, p)
		pods.Go(func() {
			if err := p.live(a, func(round int) bool {
				return !c.bad() && (round == 0 || time.Since(began) < *howLong)
			}); err != nil {
				p.violated("%v", err)
			}
		})
	}
	pods.Wait()
	x.left(c)
}

// left looks for programs of ours that still run.
func (x *tools) left(c *counts) {
	var names []string
	if err := until(func() bool {
		names = nil
		all, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, path := range all {
			if exe, err := os.Readlink(path); err == nil && strings.HasPrefix(exe, x.dir) &&
				!strings.HasSuffix(exe, "agent") {
				names = append(names, exe)
			}
		}
		return len(names) == 0
	}); err != nil {
		c.violated("still at work: %v", names)
	}
}

// live is a pod's life: rounds under traffic.
func (p *pod) live(a *agent, goOn func(round int) bool) error {
	if p.backend == dataplane.BackendIPTablesLegacy {
		// Its tables are there once somebody has asked for them.
		if err := run(p.lab.Pod, nil, "sh", "-ec", `for p in iptables-legacy ip6tables-legacy; do
			for t in raw mangle nat filter; do $p -w 5 -t $t -L -n >/dev/null; done; done`); err != nil {
			return err
		}
	}
	before, err := p.contents()
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	var traffic sync.WaitGroup
	for range 2 {
		traffic.Go(func() { p.traffic(stop) })
	}
	defer func() { close(stop); traffic.Wait() }()
	held := 0
	for round := 0; goOn(round); round++ {
		if err := p.round(a, round, before); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		p.add(rounds, 1)
		if err := a.weigh(); err != nil {
			return err
		}
		now, err := weigh(os.Getpid())
		if err != nil {
			return err
		}
		total := now.descriptors + runtime.NumGoroutine()
		const most = 300
		if held == 0 {
			held = total
		} else if total > held+most {
			p.violated("this process had %d descriptors and goroutines, and has %d", held, total)
		}
	}
	return nil
}

// round is one: see the package's documentation.
func (p *pod) round(a *agent, n int, before string) error {
	var u usual
	p.asked = nil
	agents := p.choose(p.r)
	if err := p.mustRun(&u, "apply", p.choose(p.r)); err != nil {
		return err
	}
	p.add(applies, 1)
	p.vow(true)

	if err := a.ask(agents); err != nil {
		return err
	}
	if err := p.storm(a, n, &u); err != nil {
		return err
	}
	a.forget()
	if err := p.silence(&u, agents); err != nil {
		return err
	}
	p.vow(false)

	if err := p.repair(a, &u); err != nil {
		return err
	}
	return p.removal(&u, before)
}

// mustRun runs mesh-init, which nothing befalls.
func (p *pod) mustRun(u *usual, verb string, c intercept.Config) error {
	cmd, done := p.meshInit(verb, &c)
	defer done()
	if got := p.run(p.r, u, none, cmd); !got.ok() {
		return fmt.Errorf("mesh-init %s, to which nothing has happened: exit code %d: %s", verb, got.exit, got.output)
	}
	return nil
}

// storm has writers and accidents at the same time.
func (p *pod) storm(a *agent, round int, u *usual) error {
	const usual = 4 * time.Second
	deadline := time.Now()
	if *howLong > 0 { // else everything happens once
		deadline = deadline.Add(usual)
	}
	var all sync.WaitGroup
	for range *writers {
		r := rand.New(rand.NewPCG(p.r.Uint64(), 3))
		all.Go(func() {
			for n := 0; !p.bad() && (time.Now().Before(deadline) || n < len(works())); n++ {
				p.write(r, works()[n%len(works())], u)
			}
		})
	}
	var failed error
	all.Go(func() {
		a.often.Store(200)
		failed = a.start()
		for n := 0; failed == nil && !p.bad() && (time.Now().Before(deadline) || n < 3); n++ {
			<-time.After(300 * time.Millisecond)
			p.look()
			switch n % 3 {
			case 0:
				failed = p.lab.Pod.FlushEntries()
				p.add(flushes, 1)
			case 1:
				failed = p.flap()
				p.add(flaps, 1)
			case 2:
				// It lives longer in most rounds, so that it is seen to grow if it does.
				if round%4 == 0 && a.kill() {
					p.add(killedAgent, 1)
					failed = a.start()
				}
			}
		}
	})
	all.Wait()
	return failed
}

// work is something that a writer does.
type work struct {
	plugin bool
	mishap
}

func works() []work {
	return []work{{false, none}, {false, kill}, {true, kill}, {false, fault}, {true, none}, {false, noMemory},
		{true, fault}, {true, noMemory}}
}

// write does it, and holds how it ends against what has happened to it.
func (p *pod) write(r *rand.Rand, w work, u *usual) {
	// Who is to be killed may be quicker.
	for range 20 {
		c := p.choose(r)
		cmd, done := p.meshInit("apply", &c)
		killed := killedInit
		if w.plugin {
			done()
			cmd, done = p.meshCNI("ADD", c)
			killed = killedCNI
		}
		if w.mishap == noMemory {
			if err := p.tools.limit((1000 + r.IntN(11_000)) << 10); err != nil {
				p.violated("limit memory: %v", err)
			}
		}
		got := p.run(r, u, w.mishap, cmd)
		done()
		switch {
		case got.ok():
			p.add(replaces, 1)
		case got.killed() && w.mishap == kill:
			p.add(killed, 1)
		case got.killed() && w.mishap == noMemory:
			p.add(killedByOOM, 1)
		case w.plugin && strings.Contains(got.output, "was locked by another program for"):
			// It waits for 5 s, as long as a runtime can, which then comes again. Another may take longer whose calls fail.
			p.add("calls of mesh-cni that had to be made again, for another was at work", 1)
		case got.killed() || w.mishap == none || w.mishap == kill:
			p.violated("%s, to which nothing has happened: %d: %s", filepath.Base(cmd.Path), got.exit, got.output)
		case strings.TrimSpace(got.output) == "":
			p.violated("%s failed with exit code %d, and says nothing", filepath.Base(cmd.Path), got.exit)
		default:
			p.add(refusals, 1)
		}
		if w.mishap != kill || got.killed() || p.bad() {
			return
		}
	}
}

// isInForce reports whether a configuration is in force, all of it.
func (p *pod) isInForce(c intercept.Config) (bool, error) {
	diffs, err := p.target().Check(context.Background(), c)
	if errors.Is(err, ruleset.ErrNotIntercepted) {
		return false, nil
	}
	return len(diffs) == 0, err
}

// isOneOf fails if what is in force is none of some configurations. What is different all the same, as far as except
// takes it, is none. With iptables each table can be one of them by itself, if apart says so.
func (p *pod) isOneOf(except func(ruleset.Difference) bool, apart bool, all ...intercept.Config) error {
	for range 20 {
		before, err := p.contents()
		if err != nil {
			return err
		}
		failed := p.compare(except, apart, all)
		if failed == nil {
			return nil
		}
		// One look follows the other, and the agent may have written in between.
		after, err := p.contents()
		if err != nil {
			return err
		}
		if before == after {
			return failed
		}
	}
	return errors.New("the rules keep changing")
}

func (p *pod) compare(except func(ruleset.Difference) bool, apart bool, all []intercept.Config) error {
	least := map[string][]ruleset.Difference{} // by table
	for i, c := range all {
		diffs, err := p.target().Check(context.Background(), c)
		if err != nil {
			return err
		}
		diffs = slices.DeleteFunc(diffs, func(d ruleset.Difference) bool {
			// An interface that goes down loses its routes, whatever becomes of the rules.
			return strings.Contains(d.What, "dev ") || strings.HasPrefix(d.What, "interface") || except(d)
		})
		of := map[string][]ruleset.Difference{}
		for _, d := range diffs {
			table := ""
			if words := strings.SplitN(d.What, ", ", 3); apart && len(words) == 3 && strings.HasPrefix(words[1], "table ") {
				table = words[0] + ", " + words[1]
			}
			of[table] = append(of[table], d)
		}
		if i == 0 {
			least = of
		}
		for table, known := range least {
			if n := len(of[table]); n == 0 {
				delete(least, table)
			} else if n < len(known) {
				least[table] = of[table]
			}
		}
	}
	if len(least) == 0 {
		return nil
	}
	return fmt.Errorf("what is in force is none of the %d that were asked for; from the one that is most like it, "+
		"it differs in %v", len(all), least)
}

// nothing is no difference that is taken.
func nothing(ruleset.Difference) bool { return false }

// halfway is what differs where somebody was killed between the two steps of a replacement: the backstop then lets
// connections go on that conntrack knows.
func halfway(d ruleset.Difference) bool {
	for _, part := range []string{
		// Routes come before rules, and go after them.
		" lookup ", " route ",
		"chain " + intercept.ChainBackstopStream, "chain MESH_" + strings.ToUpper(intercept.ChainBackstopStream),
		"chain MESH_SPEC_", // the fingerprint of that
	} {
		if strings.Contains(d.What, part) {
			return true
		}
	}
	return strings.Contains(d.Problem, "another configuration")
}

// silence looks at what a storm leaves, and then at what writers say that fail.
func (p *pod) silence(u *usual, agents intercept.Config) error {
	// With iptables a kill leaves each table whole, and no more (docs/backends.md).
	if err := p.isOneOf(halfway, p.backend != dataplane.BackendNFT, p.asked...); err != nil {
		return err
	}
	was := p.choose(p.r)
	for range 3 {
		if err := p.mustRun(u, "apply", was); err != nil {
			return err
		}
		if err := p.isOneOf(nothing, false, was, agents); err != nil {
			return err
		}
		now := p.choose(p.r)
		cmd, done := p.meshInit("apply", &now)
		got := p.run(p.r, u, fault, cmd)
		done()
		says := func(parts ...string) bool {
			for _, part := range parts {
				if strings.Contains(got.output, part) {
					return true
				}
			}
			return false
		}
		switch {
		case got.ok():
			p.add(replaces, 1)
			if err := p.isOneOf(nothing, false, now, agents); err != nil {
				return fmt.Errorf("mesh-init said that it is done: %w", err)
			}
		case says("could not be undone", "could not be read to be undone", "may be in force", "are written", "does not hold"):
			p.add("applies that left something, and said so", 1)
		default:
			p.add(refusals, 1)
			if err := p.isOneOf(nothing, false, was, agents); err != nil {
				return fmt.Errorf("mesh-init failed with %q: %w", got.output, err)
			}
		}
	}
	return p.mustRun(u, "apply", was)
}

// damage takes rules of ours out, of one family or of both.
func (p *pod) damage() error {
	what := "nft flush chain inet mesh_intercept output"
	if family := p.backend; family != dataplane.BackendNFT {
		what = string(family) + " -w 60 -t nat -F MESH_OUTPUT"
		if p.r.IntN(2) == 0 {
			what = strings.Replace(what, "iptables", "ip6tables", 1)
		}
	}
	return run(p.lab.Pod, nil, "sh", "-ec", what)
}

// repair puts back what somebody has taken out.
func (p *pod) repair(a *agent, u *usual) error {
	const drifted = 11
	c := p.choose(p.r)
	if err := p.mustRun(u, "apply", c); err != nil {
		return err
	}
	check := func() int {
		cmd, done := p.meshInit("check", &c)
		defer done()
		return p.run(p.r, u, none, cmd).exit
	}
	if err := p.damage(); err != nil {
		return err
	}
	if exit := check(); exit != drifted {
		return fmt.Errorf("check of rules that somebody has taken out: exit code %d", exit)
	}
	if err := p.mustRun(u, "apply", c); err != nil {
		return err
	}
	if exit := check(); exit != 0 {
		return fmt.Errorf("check of rules that were put back: exit code %d", exit)
	}
	p.add(repairs, 1)

	a.often.Store(0)
	if err := errors.Join(p.damage(), a.start(), a.ask(c)); err != nil {
		return err
	}
	if err := until(func() bool { is, err := p.isInForce(c); return is && err == nil }); err != nil {
		return fmt.Errorf("the agent has not put back what was taken out: %w", err)
	}
	p.add(agentFixes, 1)
	a.forget()
	return nil
}

// removal takes all out, and looks for what is left.
func (p *pod) removal(u *usual, before string) error {
	for _, m := range []mishap{fault, kill} {
		cmd, done := p.meshInit("remove", nil)
		p.run(p.r, u, m, cmd)
		done()
	}
	const hadNothing = 10
	// The agent may have been at work when the pod was taken from it.
	var after string
	err := until(func() bool {
		cmd, done := p.meshInit("remove", nil)
		defer done()
		got := p.run(p.r, u, none, cmd)
		if !got.ok() && got.exit != hadNothing {
			p.violated("remove: exit code %d: %s", got.exit, got.output)
		}
		var err error
		after, err = p.contents()
		return p.bad() || err == nil && after == before
	})
	if err != nil {
		return fmt.Errorf("left behind: -before +after\n%s", cmp.Diff(before, after))
	}
	p.add(removes, 1)
	return nil
}

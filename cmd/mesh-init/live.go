package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// liveRow is the flag of explain and apply that takes the configuration from a kernel.
func liveRow() cli.Flag {
	return row(liveFlag, "", groupSource, "false",
		"take the configuration that is in force in a network\nnamespace (--netns); explain takes none beside it, and\n"+
			"apply what is given over it")
}

// takeKept takes what apply has kept beside the rules in force, with what was given laid over it.
func (j *job) takeKept() error {
	f, err := j.plane.InForce(j.ctx)
	if err == nil {
		err = whole(f)
	}
	if err != nil {
		return notKept(j.bare(err))
	}
	origins := map[string]string{}
	maps.Copy(origins, f.Origins)
	if j.config, err = j.over(f.Config, origins); err != nil {
		return cli.UsageError{Err: err}
	}
	if len(j.environment) > 0 {
		j.log.WarnContext(j.ctx, fmt.Sprintf("--%s: variables are laid over the configuration in force: %s; unset what is not "+
			"meant so", liveFlag, strings.Join(j.environment, ", ")))
	}
	chosen := j.target.Backend != "" && j.target.Backend != dataplane.BackendAuto
	j.target = f.On(j.target)
	j.sameBackend = !chosen && j.target.Backend == f.Backend
	j.target.Origins = origins
	j.plane = j.on(j.target)
	return nil
}

// notKept adds to [dataplane.ErrNotKept] what to do.
func notKept(err error) error {
	if !errors.Is(err, dataplane.ErrNotKept) {
		return err
	}
	return cli.UsageError{Err: fmt.Errorf("--%s: %w: %s, without --%s; or apply again, by a backend that keeps it", liveFlag,
		err, giveAgain, liveFlag)}
}

// liveJSON is how it is with the rules in force by whose configuration something is explained.
type liveJSON struct {
	Verdict dataplane.Verdict `json:"verdict"`
	Summary string            `json:"summary"`
	// Holds is whether what is explained is what happens. It is false where the rules in force are not as they were
	// written, sleep, or come after another's: then it is what they would do. It is false, too, where chains of others
	// translate what they let go.
	Holds bool `json:"holds"`
	// After are these chains.
	After []string `json:"after,omitempty"`
	// Causes are what is wrong, the worst first.
	Causes []string `json:"causes,omitempty"`
	// Unread says what could not be seen, and why.
	Unread []string `json:"unread,omitempty"`
	// At is when the rules were written, and By who wrote them.
	At time.Time `json:"at"`
	By string    `json:"by,omitempty"`
	// Explained is what explain says. Nil: that follows on other lines.
	Explained any `json:"explained,omitempty"`

	text func(cli.Style) string
	// own are the addresses of the namespace.
	own []netip.Addr
}

// takeLive takes the configuration that is in force in the namespace. With --diff it is the one to compare with.
func (j *job) takeLive() error {
	o, err := j.plane.Overview(j.ctx)
	if err != nil {
		return err
	}
	if o.InForce == nil { // the overview has the reason as a text
		_, err := j.plane.InForce(j.ctx)
		if err == nil {
			err = dataplane.ErrNotKept // somebody has written it since
		}
		return notKept(err)
	}
	if err := whole(*o.InForce); err != nil {
		return err
	}
	f := o.InForce
	if j.packet[diffFlag].text == "true" {
		j.before = f.Config
	} else {
		j.config = f.Config
	}
	for _, from := range f.Origins {
		j.sources = append(j.sources, from)
	}
	slices.Sort(j.sources)
	j.sources = slices.Compact(j.sources)
	if o.Foreign.Error != "" {
		o.Unread = append(o.Unread, "all chains of others: "+o.Foreign.Error)
	}
	var after []string
	for _, c := range o.Foreign.Chains {
		if c.TakesLetGo() {
			after = append(after, c.Name())
		}
	}
	j.live = &liveJSON{
		Verdict: o.Verdict, Summary: o.Summary, Holds: o.Verdict.RulesHold() && len(after) == 0, After: after,
		Causes: o.Causes, Unread: o.Unread, At: f.At, By: f.By, own: o.Addresses,
	}
	for _, name := range []string{dstFlag, whyNotFlag} {
		if to, err := explain.ParseEndpoint(j.packet[name].text, j.packet["proto"].text, false); err == nil {
			j.packet.toOwn(j.live.own, to.Addr())
		}
	}
	if lacks := j.packet.fromOwn(j.live.own); lacks != 0 {
		j.log.WarnContext(j.ctx, "the namespace has no address of "+lacks.String()+", so that nothing of it leaves it yet: "+
			"the source of this packet is an example")
	}
	j.live.text = func(style cli.Style) string {
		text := ""
		if o.Verdict.RulesHold() {
			o.Causes = nil // who listens is nothing to the rules; the summary has the worst
		} else {
			text = "What follows is what our rules do by themselves, as they were written.\n"
		}
		if len(after) > 0 {
			text += cli.Hang("", 2, "What they let go comes to "+strict.OneLine(strings.Join(after, ", "))+
				", of others, and may be sent elsewhere there.")
		}
		return headText(o, style) + text + "\n"
	}
	return nil
}

// toOwn notes of a packet to one of the pod's own addresses that it is from the pod, or arrives, by where it comes from,
// unless more is said of it.
func (p packetFlags) toOwn(own []netip.Addr, to netip.Addr) {
	if p["from"].text == "outside" || p.given("to-self") || p.given("interface") || !slices.Contains(own, to) {
		return
	}
	name, text := "to-self", "true"
	src, err := explain.ParseEndpoint(p["src"].text, p["proto"].text, false)
	if err == nil && !p.given("from") && !src.Addr().IsLoopback() && !slices.Contains(own, src.Addr()) {
		name, text = "from", "outside"
	}
	said := p[name]
	said.text, said.given = text, true
	p[name] = said
}

// fromOwn has a packet of the pod's come from an address that the pod has, if none is given, and returns the family of
// which it lacks one. Zero: it has one, needs none, or its addresses were not seen.
func (p packetFlags) fromOwn(own []netip.Addr) (lacks intercept.Family) {
	src := p["src"]
	if p["from"].text == "outside" || src.given || len(own) == 0 {
		return 0
	}
	for _, name := range []string{dstFlag, whyNotFlag} {
		to, err := explain.ParseEndpoint(p[name].text, p["proto"].text, false)
		if err != nil || to.Addr().IsLoopback() || slices.Contains(own, to.Addr()) {
			continue
		}
		for _, a := range own {
			if a.Is4() == to.Addr().Is4() && a.IsGlobalUnicast() && !slices.Contains(intercept.Default().PassthroughSources, a) {
				src.text, src.given = a.String(), true
				p["src"] = src
				return 0
			}
		}
		lacks = intercept.FamilyOf(to.Addr())
	}
	return lacks
}

// configText says where the configuration is from by which a packet is explained.
func (j job) configText() string {
	all := strings.Join(j.sources, ", ") + "; the rest are the defaults"
	switch {
	case j.live != nil && len(decode.Settings(j.config, false)) == 0:
		return "what is in force: the defaults"
	case j.live != nil && len(j.sources) == 0:
		return "what is in force"
	case j.live != nil:
		return "what is in force: " + all
	case len(j.sources) == 0:
		return "the defaults, since none was given"
	}
	return all
}

// besideLive says what is wrong with what is given beside --live, or with what needs it.
func (in inputs) besideLive(s settings) (errs []error) {
	live, diff := s.packet[liveFlag], s.packet[diffFlag].text == "true"
	for _, g := range in.given {
		switch {
		case live.text == "true" && (g.Path != "" || g.Name == configFlag || g.Name == resolvConfFlag && !diff):
			remedy := "unset it"
			if strings.HasPrefix(g.source, "--") {
				remedy = "leave it out"
			}
			errs = append(errs, fmt.Errorf("%s: --%s takes the configuration in force and no other; %s", g.source, liveFlag, remedy))
		case live.text != "true" && g.source == "--"+g.Name && isOf(netnsFlags(), g.Name):
			errs = append(errs, fmt.Errorf("%s: explain does not use it without --%s; add that, or leave it out", g.source, liveFlag))
		}
	}
	return errs
}

func isOf(all []cli.Flag, name string) bool {
	_, is := cli.Find(all, name)
	return is
}

// print writes what is explained, with how it is with the rules.
func (l liveJSON) print(j job, v any, text func() string) error {
	l.Explained = v
	return j.output.Write(j.out, l, func() string { return l.text(j.style) + text() })
}

// headText is the verdict, and what else is wrong or was not seen.
func headText(o dataplane.Overview, style cli.Style) string {
	var text strings.Builder
	text.WriteString(cli.Hang("", 2, verdictLine(o, style)))
	for i, cause := range o.Causes {
		if i > 0 { // the first is in the verdict
			text.WriteString(cli.Hang("  ", 4, "also: "+strict.OneLine(cause)))
		}
	}
	for _, u := range o.Unread {
		text.WriteString(cli.Hang("  ", 4, "not seen: "+strict.OneLine(u)))
	}
	return text.String()
}

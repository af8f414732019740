package dataplane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/sockets"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

// Verdict says in a word how it is with a namespace.
type Verdict string

// The verdicts, the worst first.
const (
	// NotIntercepted: there are no rules of ours.
	NotIntercepted Verdict = "not intercepted"
	// Asleep: their table is dormant, so that none is in force.
	Asleep Verdict = "asleep"
	// Changed: they are not as they were written.
	Changed Verdict = "changed"
	// Taken: another's rules take what ours capture, or send to the pod itself what ours let go: what the proxy sends.
	Taken Verdict = "taken"
	// Partial: part of the traffic does not come to the proxy, such as that of the other family.
	Partial Verdict = "partial"
	// Shared: an app runs as the proxy's user or group, and passes as the proxy.
	Shared Verdict = "shared"
	// Full: connection tracking has no room for new connections.
	Full Verdict = "full"
	// Unserved: nobody listens at a port to which they send.
	Unserved Verdict = "unserved"
	// Intercepting: nothing is seen that is wrong. That it works is for Verify to prove.
	Intercepting Verdict = "intercepting"
)

// Unknown is the verdict beside [ruleset.ErrPermission]: the rules may not be looked at.
const Unknown Verdict = "unknown"

// Verdicts are all of them, the worst first.
func Verdicts() []Verdict {
	return []Verdict{NotIntercepted, Asleep, Changed, Taken, Partial, Shared, Full, Unserved, Intercepting}
}

// RulesHold reports whether the rules are in force as they were written, and nothing of others comes before them.
func (v Verdict) RulesHold() bool {
	return slices.Index(Verdicts(), v) > slices.Index(Verdicts(), Taken)
}

// Overview is what there is to see of a namespace without trying anything.
type Overview struct {
	Verdict Verdict `json:"verdict"`
	// Summary is the verdict and the facts beside it, in one line.
	Summary string `json:"summary"`
	// Causes are what is wrong, the worst first, each with its remedy.
	Causes []string `json:"causes,omitempty"`
	// Doubts are what may be wrong, and is for Verify to find out.
	Doubts []string `json:"doubts,omitempty"`
	Status
	// InForce is what the rules were made of. Nil: that is not known, and Unread says why.
	InForce *InForce `json:"inForce,omitempty"`
	// Differences are how the rules differ from what was written.
	Differences []string `json:"differences,omitempty"`
	// Ports are where rules send to, and who listens there.
	Ports []Port `json:"ports,omitempty"`
	// Meanings are what the counters add up to.
	Meanings []Count `json:"meanings,omitempty"`
	// Unread says what could not be seen, and why.
	Unread []string `json:"unread,omitempty"`
	// Addresses are those of the namespace's interfaces, as far as they could be seen.
	Addresses []netip.Addr `json:"-"`
	// latent are rules that iptables has as soon as there are connections that are older than the rules.
	latent []ruleset.RuleID
	// unkept is true of rules beside which nothing says what they were made of ([ErrNotKept]).
	unkept bool
}

// Port is a port of the sidecar.
type Port struct {
	For      string            `json:"for"` // outbound, inbound or dns
	Protocol ruleset.Protocol  `json:"protocol"`
	Port     ruleset.PortRange `json:"port"`
	// Listeners are who listens there. None: nobody does.
	Listeners []Listener `json:"listeners"`
}

// Listener is a listening socket.
type Listener struct {
	Address netip.AddrPort `json:"address"`
	UID     uint32         `json:"uid"`
	// Process is whose it is, if that can be seen. PID 0: it cannot.
	Process string `json:"process,omitempty"`
	PID     int    `json:"pid,omitempty"`
	// NotProxy is true if neither who has opened it nor who has it is the proxy, as far as that can be seen. What it accepts
	// may be the proxy's all the same: whether it works is for Verify to find out.
	NotProxy bool `json:"notProxy,omitempty"`
	// Device is the interface that the socket is bound to (SO_BINDTODEVICE). Empty: to none.
	Device string `json:"device,omitempty"`
	// Unreached is true if nothing that rules send to the port comes to this address, as nothing that arrives does to
	// 127.0.0.1, or by this interface, as what an app sends does by lo alone.
	Unreached bool `json:"unreached,omitempty"`

	v6Only bool
}

// Where says at which address the socket is, and to which interface it is bound.
func (l Listener) Where() string { return verify.Socket{Local: l.Address, Device: l.Device}.Where() }

// hears reports whether something of a family that rules send comes to the socket.
func (l Listener) hears(f ruleset.Family) bool {
	return !l.Unreached && (ruleset.FamilyOf(l.Address.Addr()) == f || l.Address.Addr() == netip.IPv6Unspecified() && !l.v6Only)
}

// Count is what the rules of one meaning have counted.
type Count struct {
	Meaning intercept.Meaning `json:"meaning"`
	Packets uint64            `json:"packets"`
	Bytes   uint64            `json:"bytes"`
}

// Overview looks at a namespace. It changes nothing, and tells what it may not see in Unread. Where there are no rules of
// ours the error is [ruleset.ErrNotIntercepted], and the overview says the rest. Where the rules may not be looked at it
// is [ruleset.ErrPermission]: the overview is [Unknown] then, and has whose namespace it seems to be, and who listens at
// the usual ports.
func (p Pod) Overview(ctx context.Context) (o Overview, err error) {
	f, inForceErr := p.InForce(ctx)
	if inForceErr == nil {
		o.InForce, p = &f, f.On(p)
	}
	o.Verdict = NotIntercepted
	_, err = once(ctx, p, func(s *Session) (_ struct{}, err error) {
		if o.Status, err = s.Status(ctx); errors.Is(err, ruleset.ErrNotIntercepted) {
			return struct{}{}, s.unintercepted(ctx, err)
		}
		if errors.Is(err, ruleset.ErrPermission) {
			o.Verdict = Unknown
			_ = s.do(ctx, func() error { // it is no more than a help
				o.unprivileged()
				return nil
			})
		}
		if err != nil {
			return struct{}{}, err
		}
		o.Verdict = "" // which it comes to at the end
		if inForceErr != nil {
			o.Unread = append(o.Unread, inForceErr.Error())
			o.unkept = errors.Is(inForceErr, ErrNotKept)
		}
		return struct{}{}, s.do(ctx, func() error { return s.space.overview(ctx, p, &o) })
	})
	return o, err
}

// unprivileged has what can be seen without a look at the rules: the namespace's addresses, and who listens at the ports
// of a default configuration.
func (o *Overview) unprivileged() {
	if all, err := links.List(); err == nil {
		for _, l := range all {
			o.Addresses = append(o.Addresses, l.Addrs...)
		}
		o.Summary = whose(all)
	}
	o.Ports, _ = portsOf(intercept.Default())
	for i := range o.Ports { // who the proxy is, is not known
		for k := range o.Ports[i].Listeners {
			o.Ports[i].Listeners[k].NotProxy = false
		}
	}
}

// On returns the pod with the backend of the rules, and with what Apply was given besides the configuration, unless the
// pod says otherwise.
func (f InForce) On(p Pod) Pod {
	if p.Backend == "" || p.Backend == BackendAuto {
		p.Backend = f.Backend
	}
	if p.IPTables.Jumps == "" {
		p.IPTables.Jumps = f.Jumps
	}
	return p
}

func (s *space) overview(ctx context.Context, p Pod, o *Overview) error {
	var found trouble
	rules, families := map[ruleset.RuleID]ruleset.Rule{}, map[string]bool{}
	if f := o.InForce; f != nil {
		want, err := newPlan(f.Config)
		if err != nil {
			return err
		}
		for _, family := range want.rules.Families {
			families[family.String()] = true
		}
		for _, b := range o.Backends {
			for _, c := range s.rulesFor(want, b).Chains {
				for _, r := range c.Rules {
					if rules[r.ID] = r; slices.Contains(r.Match, ruleset.Match(ruleset.Older{})) {
						o.latent = append(o.latent, r.ID)
					}
				}
			}
		}
		if len(f.Omitted) == 0 {
			diffs, err := s.check(ctx, p.Backend, want)
			if err != nil {
				return err
			}
			for _, d := range diffs {
				o.Differences = append(o.Differences, d.String())
			}
		} else {
			o.Unread = append(o.Unread, "whether the rules are as they were written: "+strings.Join(f.Omitted, ", ")+
				" was too long to be kept beside them; mesh-init check with the flags of apply tells")
		}
		if o.Ports, err = portsOf(f.Config); err != nil {
			o.Unread = append(o.Unread, "who listens: "+strict.InLine(err))
		}
		var unread []string
		found, unread = s.trouble(p, f.Config, o.Ports)
		o.Addresses = found.addrs
		o.Unread = append(o.Unread, unread...)
	}
	if o.InForce == nil {
		for _, b := range o.Backends {
			w, err := s.writer(b)
			if err != nil {
				return err
			}
			hollow, err := w.Hollow(ctx)
			if err != nil {
				return err
			}
			for _, d := range hollow {
				o.Differences = append(o.Differences, d.String())
			}
		}
	}
	for _, c := range o.Counters {
		if o.InForce == nil && c.Family != "" {
			families[c.Family] = true
		}
	}
	o.Meanings = meanings(o.Counters, rules)
	o.conclude(time.Now(), p.By, found, slices.Sorted(maps.Keys(families)))
	return nil
}

// portsOf returns where a configuration sends to, and who listens there.
func portsOf(c intercept.Config) ([]Port, error) {
	var all []Port
	if len(c.Outbound.Target) == 0 {
		all = append(all, Port{For: "outbound", Protocol: ruleset.TCP, Port: c.Outbound.Port})
	}
	if c.Inbound.Mode != intercept.InboundOff {
		all = append(all, Port{For: "inbound", Protocol: ruleset.TCP, Port: c.Inbound.Port})
	}
	if c.DNS.Mode != intercept.DNSOff && len(c.DNS.Target) == 0 {
		all = append(all, Port{For: "dns", Protocol: ruleset.UDP, Port: ruleset.PortRange{First: c.DNS.Port, Last: c.DNS.Port}})
		if c.DNS.TCP {
			all = append(all, Port{For: "dns", Protocol: ruleset.TCP, Port: ruleset.PortRange{First: c.DNS.Port, Last: c.DNS.Port}})
		}
	}
	inodes := map[uint64]bool{}
	open := map[ruleset.Protocol][]sockets.Socket{}
	for _, p := range all {
		if open[p.Protocol] == nil {
			listed, err := sockets.List(p.Protocol)
			if err != nil {
				return nil, err
			}
			open[p.Protocol] = listed
		}
		for _, s := range open[p.Protocol] {
			if p.has(s) {
				inodes[s.Inode] = true
			}
		}
	}
	processes := sockets.Processes(inodes)
	for i, p := range all {
		all[i].Listeners = []Listener{}
		for _, s := range open[p.Protocol] {
			if !p.has(s) {
				continue
			}
			l := Listener{Address: s.Local, UID: s.UID, Device: s.Device, v6Only: s.V6Only}
			proxy := c.Proxy.UIDs.Contains(s.UID) || c.Proxy.Mark.Matches(s.Mark)
			if holder, known := processes[s.Inode]; known && s.Inode != 0 {
				l.UID, l.Process, l.PID = holder.UID, holder.Name, holder.PID
				proxy = proxy || c.Proxy.GIDs.Contains(holder.GID)
			}
			l.NotProxy = !proxy && !c.Proxy.UIDs.Contains(l.UID)
			l.Unreached = !p.reaches(l, len(c.VirtualInterfaces) > 0)
			all[i].Listeners = append(all[i].Listeners, l)
		}
	}
	return all, nil
}

// has reports whether a socket is at the port.
func (p Port) has(s sockets.Socket) bool {
	return s.Local.Port() >= p.Port.First && s.Local.Port() <= p.Port.Last
}

// reaches reports whether something that rules send to the port comes to a socket: what the pod sends comes to loopback
// by lo, and what arrives, as from virtual machines behind the pod, to other addresses of the pod by other interfaces.
func (p Port) reaches(l Listener, virtual bool) bool {
	at := l.Address.Addr()
	switch arrives := !at.IsLoopback(); {
	case l.Device != "" && (l.Device == ruleset.Loopback) == (p.For == "inbound") && !virtual:
		return false
	case at.IsUnspecified():
		return true
	case p.For == "inbound":
		return arrives
	default:
		return at == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || at == netip.IPv6Loopback() || virtual && arrives
	}
}

// meanings adds up counters. rules are those in force, as far as they are known.
func meanings(counters []ruleset.Counter, rules map[ruleset.RuleID]ruleset.Rule) []Count {
	sums := map[intercept.Meaning]Count{}
	for _, c := range counters {
		_, goesOn := rules[c.Rule].Target.(ruleset.Goto)
		if goesOn {
			continue // the rule that decides counts the packet, too
		}
		_, rejects := rules[c.Rule].Target.(ruleset.Reject)
		_, drops := rules[c.Rule].Target.(ruleset.Drop)
		m := intercept.MeaningOf(c.Rule, rejects || drops)
		if m == "" {
			continue
		}
		sum := sums[m]
		sums[m] = Count{m, sum.Packets + c.Packets, sum.Bytes + c.Bytes}
	}
	var all []Count
	for _, m := range intercept.Meanings() {
		if sum, there := sums[m]; there {
			all = append(all, sum)
		}
	}
	return all
}

// conclude comes to the verdict. version is the program's own, and families are those of the rules, as far as they are
// known.
func (o *Overview) conclude(now time.Time, version string, found trouble, families []string) {
	o.Verdict = Intercepting
	worse := func(v Verdict, cause string) {
		if o.Verdict == Intercepting {
			o.Verdict = v
		}
		o.Causes = append(o.Causes, cause)
	}
	for _, table := range o.Dormant {
		worse(Asleep, "table "+table+" is dormant, so none of its rules is in force; mesh-init apply --live wakes it")
	}
	if slices.Contains(found.partial, loIsDown) { // before what it has caused
		worse(Partial, loIsDown)
	}
	if n := len(o.Differences); n > 0 && len(o.Dormant) == 0 {
		more := ""
		if n > 1 {
			more = fmt.Sprintf(", and %d more", n-1)
		}
		if o.InForce == nil {
			worse(Changed, o.Differences[0]+more+"; mesh-init apply with their flags puts it right")
		} else if by := o.InForce.By; isOtherVersion(by, version) {
			worse(Changed, fmt.Sprintf("written by %s, and %s makes other rules (%s%s); mesh-init apply --live replaces them",
				by, version, o.Differences[0], more))
		} else {
			worse(Changed, o.Differences[0]+more+"; mesh-init apply --live puts it right")
		}
	}
	for _, c := range o.Foreign.Chains {
		if w := c.Warning(); w != "" {
			worse(Taken, w+"; "+remedyOf(c, o.Backends))
		}
	}
	for _, w := range found.partial {
		if w != loIsDown {
			worse(Partial, w)
		}
	}
	if found.shared != "" {
		worse(Shared, found.shared)
	}
	if found.full != "" {
		worse(Full, found.full)
	}
	for _, cause := range found.unserved {
		worse(Unserved, cause)
	}
	o.Doubts = append(o.Doubts, found.cutOff...)
	for _, p := range o.Ports {
		if i := slices.IndexFunc(p.Listeners, func(l Listener) bool { return l.NotProxy }); i >= 0 {
			o.Doubts = append(o.Doubts, fmt.Sprintf("who listens at %s is user %d, not the proxy: mesh-init verify tries it", p.Port,
				p.Listeners[i].UID))
			break
		}
	}
	o.Summary = string(o.Verdict) + ": "
	if len(o.Causes) > 0 {
		o.Summary += o.Causes[0] + "; "
	}
	o.Summary += strings.Join(o.facts(now, families), "; ")
}

// remedyOf is what to do about a chain of others because of which connections can go elsewhere.
func remedyOf(c beside.Foreign, ours []Backend) string {
	inNFT := slices.Contains(ours, BackendNFT)
	meshes := beside.Meshes([]beside.Foreign{c})
	translates := c.Type == ruleset.NATChain.String()
	switch {
	case len(meshes) > 0:
		return "mesh-init remove --foreign " + meshes[0].Name + " takes its rules out"
	case c.Effect == beside.TakesRest:
		return "have it leave alone what the proxy sends and what is excluded; mesh-init verify tries it"
	case translates && inNFT && c.Registered == beside.AfterOurs:
		return "mesh-init apply --live puts ours first"
	case translates && inNFT:
		return fmt.Sprintf("have it registered at a priority above %d", ruleset.PriorityFirstNAT)
	case translates:
		return "mesh-init apply --live --backend nft puts ours before it"
	}
	return "take it out, or have its owner leave alone what ours capture"
}

// isOtherVersion reports whether two programs, as in "mesh-cni v1.2.3", are of different versions, if both have one.
func isOtherVersion(a, b string) bool {
	_, of, known := strings.Cut(a, " ")
	_, other, alsoKnown := strings.Cut(b, " ")
	return known && alsoKnown && of != other
}

// what is sent there.
func (p Port) what() string {
	if p.For == "dns" {
		return "name lookups"
	}
	return p.For + " connections"
}

// facts are what to know besides what is wrong.
func (o *Overview) facts(now time.Time, families []string) []string {
	ids := map[ruleset.RuleID]bool{}
	for _, c := range o.Counters {
		ids[c.Rule] = true
	}
	for _, id := range o.latent {
		ids[id] = true
	}
	rules := strict.Count(len(ids), "rule") + " by " + join(o.Backends)
	if len(families) > 0 {
		rules += ", " + strings.Join(families, " and ")
	}
	if f := o.InForce; f != nil {
		rules += ", applied " + ago(now.Sub(f.At)) + " ago"
		if f.By != "" {
			rules += " by " + f.By
		}
	}
	facts := []string{rules}
	if o.InForce != nil && len(o.InForce.Omitted) == 0 && len(o.Differences) == 0 {
		facts = append(facts, "unchanged")
	}
	if o.unkept {
		facts = append(facts, "what they were made of is not kept beside them, as of rules that mesh-init render has printed, "+
			"of the dialect minimal and of old versions; mesh-init apply with their flags keeps it")
	}
	facts = append(facts, o.Doubts...)
	if n := len(o.Foreign.Chains); n > 0 {
		word := ", harmless"
		switch {
		case slices.ContainsFunc(o.Foreign.Chains, func(c beside.Foreign) bool {
			return c.Effect != beside.Harmless && !c.TakesLetGo() && c.Effect != beside.Asleep
		}):
			word = " that may act on what ours capture"
		case slices.ContainsFunc(o.Foreign.Chains, beside.Foreign.TakesLetGo):
			word = " that may act on what ours let go"
		}
		facts = append(facts, strict.Count(n, "chain")+" of others"+word)
	}
	return facts
}

func join(all []Backend) string {
	text := make([]string, len(all))
	for i, b := range all {
		text[i] = string(b)
	}
	return strings.Join(text, " and ")
}

// ago writes how long ago something was, as people say it.
func ago(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

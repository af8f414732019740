// Package whynot finds the smallest changes of a configuration that give a packet the other fate: that send it to the
// proxy, or that let it go. It does no I/O.
package whynot

import (
	"net/netip"
	"reflect"
	"sort"
	"strconv"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/classes"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/ruleset"
)

// A Change is a configuration that gives the packet the other fate.
type Change struct {
	Config intercept.Config
	// Trace is what then becomes of the packet.
	Trace intercept.Trace
	// Steps is how many fields differ.
	Steps int
	// Changes are all packets that have another fate then, the one in question among them. None: they are too many to
	// be told apart.
	Changes []classes.Change
	// Share is which part of all that begins a flow they are, by fields.
	Share float64
}

// The bounds of a search.
const (
	mostSteps = 3
	mostTries = 400
	most      = 8 // changes of which it is said what else they change
)

// unknownShare is that of a change of which it would take too long to say what else it changes: more than all.
const unknownShare = 2

// Captured reports whether a fate is that of what goes to the proxy.
func Captured(f intercept.Fate) bool {
	switch f.Action {
	case intercept.Redirected, intercept.Translated, intercept.Transparent:
		return true
	case intercept.Pass, intercept.Rejected, intercept.Dropped:
	}
	return false
}

// Find returns the changes, the smallest first. There are none if no few fields make the difference. The packet is one
// that Trace takes; the configuration is valid.
func Find(c intercept.Config, p intercept.Packet) ([]Change, error) {
	before, err := intercept.Compile(c)
	if err != nil {
		return nil, err
	}
	trace, err := before.Trace(p)
	if err != nil {
		return nil, err
	}
	s := search{packet: p, capture: !Captured(trace.Fate), left: mostTries}
	// What one change does not do, several may: each has to take out of the way what decided before.
	at := []attempt{{config: c, rule: trace.Rule}}
	for step := 1; step <= mostSteps && len(s.found) == 0; step++ {
		var next []attempt
		for _, a := range at {
			next = append(next, s.from(a, step)...)
		}
		at = next
	}
	found := s.found
	for i := range found {
		if i == most+most/2 {
			found = found[:i]
			break
		}
		after, err := intercept.Compile(found[i].Config)
		if err != nil {
			return nil, err
		}
		all, err := classes.New(nil, before, after)
		if err == nil {
			found[i].Changes, err = all.Diff()
		}
		if found[i].Share = classes.Share(found[i].Changes); err != nil {
			found[i].Share = unknownShare // there are too many classes: the change does what it does all the same
		}
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].Share < found[j].Share })
	return found[:min(most, len(found))], nil
}

type attempt struct {
	config intercept.Config
	rule   intercept.RuleID
}

type search struct {
	packet  intercept.Packet
	capture bool
	left    int
	found   []Change
}

// from tries all changes of one field. It returns those that do not do, and after which another rule decides.
func (s *search) from(a attempt, step int) (more []attempt) {
	for _, edit := range edits(a.config, s.packet, s.capture) {
		if s.left--; s.left < 0 {
			return nil
		}
		c := a.config
		if !edit.apply(&c) {
			continue
		}
		rs, err := intercept.Compile(c)
		if err != nil {
			continue // the change is none that can be made
		}
		trace, err := rs.Trace(s.packet)
		if err != nil {
			continue
		}
		switch {
		case Captured(trace.Fate) == s.capture:
			s.found = append(s.found, Change{Config: c, Trace: trace, Steps: step})
		case trace.Rule != a.rule:
			more = append(more, attempt{c, trace.Rule})
		}
	}
	return more
}

// An edit changes one field, by its path and in its text form.
type edit struct {
	path string
	do   action
	text string
}

// action is what an edit does with its text.
type action byte

const (
	set    action = iota // the field is that
	add                  // a list has that, too
	remove               // a list has no item that holds that
	drop                 // a list has no item of that number
)

// edits are the changes of one field that can matter to a packet.
func edits(c intercept.Config, p intercept.Packet, capture bool) []edit {
	dst, src := p.Dst.Addr().String(), p.Src.Addr().String()
	port := strconv.Itoa(int(p.Dst.Port()))
	var uid, gid string
	if p.Owner != nil {
		uid, gid = strconv.FormatUint(uint64(p.Owner.UID), 10), strconv.FormatUint(uint64(p.Owner.GID), 10)
	}
	arrives := p.Hook != intercept.Output
	var all []edit
	switch {
	case capture:
		// From behind the pod it is outbound, too.
		all = []edit{
			{"families", set, string(intercept.FamiliesAuto)},
			{"outbound.excludePorts", remove, port}, {"outbound.excludeCIDRs", remove, dst},
			{"outbound.includeCIDRs", add, dst}, {"outbound.includePorts", add, port},
			{"dns.mode", set, string(intercept.DNSAll)}, {"dns.servers", add, dst}, {"dns.tcp", set, "true"},
			{"dns.virtual", set, "true"}, {"loopback", set, intercept.Default().Loopback.String()},
			{"inbound.hairpin", set, string(intercept.HairpinCapture)}, {"passthroughSources", remove, src},
			{"excludeInterfaces", remove, p.Interface},
		}
		if p.Owner != nil {
			all = append(all, edit{"outbound.excludeUIDs", remove, uid}, edit{"outbound.excludeGIDs", remove, gid},
				edit{"outbound.includeUIDs", add, uid}, edit{"outbound.includeGIDs", add, gid},
				edit{"proxy.uids", remove, uid}, edit{"proxy.gids", remove, gid}, edit{"proxy.mark", set, "none"})
		}
		for i := range c.Outbound.Exclude {
			all = append(all, edit{"outbound.exclude", drop, strconv.Itoa(i)})
		}
		if arrives {
			all = append(all, edit{"inbound.mode", set, string(intercept.InboundRedirect)},
				edit{"inbound.excludePorts", remove, port}, edit{"inbound.excludeSources", remove, src},
				edit{"inbound.includePorts", add, port}, edit{"inbound.captureForwarded", set, "true"})
			if c.TunnelPort == p.Dst.Port() {
				all = append(all, edit{"tunnelPort", set, "0"})
			}
			for i := range c.Inbound.Exclude {
				all = append(all, edit{"inbound.exclude", drop, strconv.Itoa(i)})
			}
		}
	case arrives:
		one := intercept.InboundExclusion{Sources: single(p.Src.Addr()), Ports: intercept.Ports{intercept.Port(p.Dst.Port())}}
		all = []edit{
			{"inbound.exclude", add, one.String()}, {"inbound.excludePorts", add, port}, {"inbound.excludeSources", add, src},
			{"inbound.includePorts", remove, port}, {"inbound.mode", set, string(intercept.InboundOff)},
			{"inbound.captureForwarded", set, "false"},
		}
	}
	if capture {
		return all
	}
	one := intercept.Exclusion{Protocol: p.Protocol, CIDRs: single(p.Dst.Addr()),
		Ports: intercept.Ports{intercept.Port(p.Dst.Port())}}
	all = append(all, edit{"outbound.exclude", add, one.String()}, edit{"outbound.excludePorts", add, port},
		edit{"outbound.excludeCIDRs", add, dst}, edit{"outbound.includeCIDRs", remove, dst},
		edit{"outbound.includePorts", remove, port}, edit{"inbound.hairpin", set, string(intercept.HairpinPass)},
		edit{"dns.mode", set, string(intercept.DNSOff)}, edit{"dns.tcp", set, "false"}, edit{"dns.servers", remove, dst})
	if p.Owner != nil {
		one.UIDs = intercept.IDs{intercept.ID(p.Owner.UID)}
		all = append(all, edit{"outbound.exclude", add, one.String()}, edit{"outbound.excludeUIDs", add, uid},
			edit{"outbound.includeUIDs", remove, uid}, edit{"outbound.includeGIDs", remove, gid})
	}
	if p.Interface != ruleset.Loopback {
		all = append(all, edit{"excludeInterfaces", add, p.Interface})
	}
	return all
}

func single(a netip.Addr) intercept.CIDRs { return intercept.CIDRs{netip.PrefixFrom(a, a.BitLen())} }

// apply changes a configuration. It is false if the field cannot be that.
func (e edit) apply(c *intercept.Config) bool {
	v := strict.Lookup(reflect.ValueOf(c).Elem(), e.path)
	switch e.do {
	case set:
		return strict.SetText(v.Addr().Interface(), e.text) == nil
	case add:
		more := reflect.New(v.Type())
		if strict.SetText(more.Interface(), e.text) != nil {
			return false
		}
		v.Set(reflect.AppendSlice(v.Slice3(0, v.Len(), v.Len()), more.Elem()))
	case remove, drop:
		less := reflect.MakeSlice(v.Type(), 0, v.Len()) // the list may be another configuration's, too
		for i := range v.Len() {
			less = reflect.AppendSlice(less, e.rest(v, i))
		}
		v.Set(less)
	}
	return true
}

// rest returns what is left of an item of a list.
func (e edit) rest(list reflect.Value, i int) reflect.Value {
	here, none := list.Slice(i, i+1), list.Slice(i, i)
	gone := false
	switch item := list.Index(i).Interface().(type) {
	case intercept.PortRange:
		n, err := strconv.ParseUint(e.text, 10, 16)
		if port := uint16(n); err == nil && item.First <= port && port <= item.Last {
			return reflect.ValueOf(around(item, port))
		}
	case intercept.IDRange:
		n, err := strconv.ParseUint(e.text, 10, 32)
		if id := uint32(n); err == nil && item.First <= id && id <= item.Last {
			return reflect.ValueOf(around(item, id))
		}
	case netip.Prefix:
		a, err := netip.ParseAddr(e.text)
		gone = err == nil && item.Contains(a)
	case netip.Addr:
		gone = item.String() == e.text
	case string:
		gone = ruleset.InterfaceMatches(item, e.text)
	default:
		gone = strconv.Itoa(i) == e.text
	}
	if gone {
		return none
	}
	return here
}

// around returns a range without one of its values.
func around[R ~struct{ First, Last N }, N uint16 | uint32](r R, n N) (out []R) {
	ends := struct{ First, Last N }(r)
	if ends.First < n {
		out = append(out, R{ends.First, n - 1})
	}
	if n < ends.Last {
		out = append(out, R{n + 1, ends.Last})
	}
	return out
}

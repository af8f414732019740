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
	found, many := s.found, false
	for i := range found {
		if i == most+most/2 {
			found = found[:i]
			break
		}
		after, err := intercept.Compile(found[i].Config)
		if err != nil {
			return nil, err
		}
		if found[i].Share = unknownShare; many {
			continue
		}
		all, err := classes.New(nil, before, after)
		if err == nil {
			found[i].Changes, err = all.Diff()
		}
		if many = err != nil; !many {
			found[i].Share = classes.Share(found[i].Changes)
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

// A row is an edit for some packets. Its text is one of the words of a packet, or stands for itself.
type row struct {
	capture  bool // it is to capture a packet, else to let one go
	arriving bool // it is for what arrives alone
	edit
}

// The words of a packet.
const (
	wordDst       = "DST"
	wordSrc       = "SRC"
	wordPort      = "PORT"
	wordUID       = "UID"
	wordGID       = "GID"
	wordInterface = "INTERFACE"
	wordExact     = "EXACT" // an exclusion of what goes there
	wordOwn       = "OWN"   // and of its user
	wordClient    = "CLIENT"
)

// rows are the changes of one field that can matter to a packet.
func rows() []row {
	return []row{
		{true, false, edit{"families", set, "auto"}},
		{true, false, edit{"outbound.excludePorts", remove, wordPort}},
		{true, false, edit{"outbound.excludeCIDRs", remove, wordDst}},
		{true, false, edit{"outbound.includeCIDRs", add, wordDst}},
		{true, false, edit{"outbound.includePorts", add, wordPort}},
		{true, false, edit{"dns.mode", set, "all"}},
		{true, false, edit{"dns.servers", add, wordDst}},
		{true, false, edit{"dns.tcp", set, "true"}},
		{true, false, edit{"dns.virtual", set, "true"}},
		{true, false, edit{"loopback", set, "127.0.0.1,::1"}},
		{true, false, edit{"inbound.hairpin", set, "capture"}},
		{true, false, edit{"passthroughSources", remove, wordSrc}},
		{true, false, edit{"excludeInterfaces", remove, wordInterface}},
		{true, false, edit{"outbound.excludeUIDs", remove, wordUID}},
		{true, false, edit{"outbound.excludeGIDs", remove, wordGID}},
		{true, false, edit{"outbound.includeUIDs", add, wordUID}},
		{true, false, edit{"outbound.includeGIDs", add, wordGID}},
		{true, false, edit{"proxy.uids", remove, wordUID}},
		{true, false, edit{"proxy.gids", remove, wordGID}},
		{true, false, edit{"proxy.mark", set, "none"}},
		{true, true, edit{"inbound.mode", set, "redirect"}},
		{true, true, edit{"inbound.excludePorts", remove, wordPort}},
		{true, true, edit{"inbound.excludeSources", remove, wordSrc}},
		{true, true, edit{"inbound.includePorts", add, wordPort}},
		{true, true, edit{"inbound.captureForwarded", set, "true"}},
		{true, true, edit{"tunnelPort", set, "0"}},

		{false, true, edit{"inbound.exclude", add, wordClient}},
		{false, true, edit{"inbound.excludePorts", add, wordPort}},
		{false, true, edit{"inbound.excludeSources", add, wordSrc}},
		{false, true, edit{"inbound.includePorts", remove, wordPort}},
		{false, true, edit{"inbound.mode", set, "off"}},
		{false, true, edit{"inbound.captureForwarded", set, "false"}},
		{false, false, edit{"outbound.exclude", add, wordExact}},
		{false, false, edit{"outbound.exclude", add, wordOwn}},
		{false, false, edit{"outbound.excludePorts", add, wordPort}},
		{false, false, edit{"outbound.excludeCIDRs", add, wordDst}},
		{false, false, edit{"outbound.excludeUIDs", add, wordUID}},
		{false, false, edit{"outbound.includeCIDRs", remove, wordDst}},
		{false, false, edit{"outbound.includePorts", remove, wordPort}},
		{false, false, edit{"outbound.includeUIDs", remove, wordUID}},
		{false, false, edit{"outbound.includeGIDs", remove, wordGID}},
		{false, false, edit{"excludeInterfaces", add, wordInterface}},
		{false, false, edit{"inbound.hairpin", set, "pass"}},
		{false, false, edit{"dns.mode", set, "off"}},
		{false, false, edit{"dns.tcp", set, "false"}},
		{false, false, edit{"dns.servers", remove, wordDst}},
	}
}

// edits are those rows for a packet. What comes from behind the pod is outbound, too.
func edits(c intercept.Config, p intercept.Packet, capture bool) (all []edit) {
	words := wordsOf(p)
	for _, r := range rows() {
		text, isWord := words[r.text]
		if !isWord {
			text = r.text
		}
		if r.capture != capture || r.arriving && p.Hook == intercept.Output || text == "" {
			continue
		}
		all = append(all, edit{r.path, r.do, text})
	}
	if capture {
		for i := range max(len(c.Outbound.Exclude), len(c.Inbound.Exclude)) {
			n := strconv.Itoa(i)
			all = append(all, edit{"outbound.exclude", drop, n}, edit{"inbound.exclude", drop, n})
		}
	}
	return all
}

// wordsOf are a packet's words. A word that it does not have is empty.
func wordsOf(p intercept.Packet) map[string]string {
	port := intercept.Ports{intercept.Port(p.Dst.Port())}
	one := intercept.Exclusion{Protocol: p.Protocol, CIDRs: single(p.Dst.Addr()), Ports: port}
	words := map[string]string{
		wordDst: p.Dst.Addr().String(), wordSrc: p.Src.Addr().String(), wordPort: port.String(), wordUID: "", wordGID: "",
		wordExact: one.String(), wordOwn: "", wordInterface: p.Interface,
		wordClient: intercept.InboundExclusion{Sources: single(p.Src.Addr()), Ports: port}.String(),
	}
	if p.Owner != nil {
		one.UIDs = intercept.IDs{intercept.ID(p.Owner.UID)}
		words[wordUID], words[wordOwn] = one.UIDs.String(), one.String()
		words[wordGID] = intercept.IDs{intercept.ID(p.Owner.GID)}.String()
	}
	if p.Interface == ruleset.Loopback {
		words[wordInterface] = ""
	}
	return words
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

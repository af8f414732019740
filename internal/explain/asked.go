package explain

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Short is the same question, whatever the configuration, with less: what is as it is where nothing is said is empty.
func (q Question) Short() Question {
	usual := map[string]string{"from": FromApp, "proto": ProtoTCP, "state": StateNew}
	for _, t := range q.texts() {
		if *t.text == usual[t.name] {
			*t.text = ""
		}
	}
	return q
}

// Question returns a question about the example that has its fate, by its line of the policy, under rules and the
// configuration that they were made of. It is not ok where a question cannot say what the packet is: it goes through the
// pod, the kernel sends it, it answers another.
func (e Example) Question(rs intercept.Ruleset, c intercept.Config) (_ Question, ok bool) {
	p := e.is.Packet
	if e.Older {
		rs.Older = append(slices.Clone(rs.Older), ruleset.Tuple{Src: p.Src, Dst: p.Dst})
	}
	want, err := rs.Trace(p)
	if err != nil {
		return Question{}, false
	}
	same := func(q Question) bool {
		a, err := Follow(rs, c, q)
		return err == nil && looks(a.Packet, p) && a.Trace.Fate == want.Fate && a.Trace.Rule.Line() == want.Rule.Line()
	}
	for _, q := range e.questions() {
		if same(q) {
			return shortest(q, same), true
		}
	}
	return Question{}, false
}

// questions are those that may be about the example, each with all that there is to say.
func (e Example) questions() []Question {
	q := Question{From: FromOutside, Dst: e.Dst.String(), Src: e.Src.String(), Proto: e.Protocol, Interface: e.Interface,
		State: e.State}
	if strings.HasSuffix(e.Protocol, ProtoICMP) { // that of IPv6 is ipv6-icmp
		q.Proto, q.Dst, q.Src = ProtoICMP, e.Dst.Addr().String(), e.Src.Addr().String()
	}
	if e.Older {
		q.State = StateEstablished
	}
	if e.UID == nil {
		return []Question{q}
	}
	q.Mark = strconv.FormatUint(uint64(e.Mark), 10)
	app, proxy := q, q
	app.From, app.UID, app.GID = FromApp, strconv.FormatUint(uint64(*e.UID), 10), strconv.FormatUint(uint64(*e.GID), 10)
	proxy.From = FromProxy
	return []Question{app, proxy}
}

// shortest leaves out of a question what follows from the rest.
func shortest(q Question, same func(Question) bool) Question {
	if inside := q; inside.Interface == ruleset.Loopback {
		inside.Interface, inside.ToSelf = "", true
		if same(inside) {
			q = inside
		}
	}
	for i := range q.texts() {
		less := q
		if t := less.texts()[i]; t.name != "dst" {
			*t.text = ""
		}
		if same(less) {
			q = less
		}
	}
	if less := q; less.ToSelf {
		if less.ToSelf = false; same(less) {
			q = less
		}
	}
	return q
}

// looks reports whether two packets are the same in all that is said of one.
func looks(p, other ruleset.Packet) bool {
	for _, each := range []*ruleset.Packet{&p, &other} {
		if each.Protocol == intercept.TCP {
			each.Flags = cmp.Or(each.Flags, intercept.SYN)
		}
		each.State = cmp.Or(each.State, intercept.CTNew)
		each.Length, each.TCPHeader, each.Listening, each.Echo = 0, 0, false, false
	}
	if (p.Owner == nil) != (other.Owner == nil) || p.Owner != nil && *p.Owner != *other.Owner {
		return false
	}
	p.Owner, other.Owner = nil, nil
	return p == other
}

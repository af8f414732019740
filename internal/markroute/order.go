//go:build linux

package markroute

import (
	"fmt"
	"slices"
	"strings"

	direct "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// An otherRule is one that is no mark rule of the kind that we make.
type otherRule struct {
	family   ruleset.Family
	order    int
	priority uint32
	// table is where it leads. Zero: to none.
	table uint32
	// mark is what it asks for, if its mask is not zero; more is true if it also asks for what packets of any mark can
	// have.
	mark ruleset.Mark
	more bool
	// negated is true of a rule for what its conditions do not hold of, and never of one that no packet of ours meets,
	// or that says nothing about those it meets.
	negated, never bool
}

// String returns the rule much as ip-rule(8) lists it.
func (r otherRule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", r.priority)
	if r.negated {
		b.WriteString(" not")
	}
	if r.mark.Mask != 0 {
		fmt.Fprintf(&b, " fwmark %#x/%#x", r.mark.Value, r.mark.Mask)
	}
	if r.table != 0 {
		fmt.Fprintf(&b, " lookup %d", r.table)
	}
	return b.String()
}

// takes reports whether the rule can decide about packets that are to be delivered by a mark.
func (r otherRule) takes(o object) bool {
	if r.never || r.family != o.family || r.table == o.table {
		return false
	}
	if r.mark.Mask == 0 {
		return r.more || !r.negated
	}
	// Of the marks that are asked for in both rules, some bits can differ.
	both := r.mark.Mask & o.mark.Mask
	differ := r.mark.Value&both != o.mark.Value&both
	same := !differ && r.mark.Mask&^o.mark.Mask == 0
	if r.negated {
		return !same || r.more
	}
	return !differ
}

// before returns the first of others' rules that is asked before ours and can take its packets.
func before(others []otherRule, o object) *otherRule {
	for i, r := range others {
		if o.rule && r.order < o.order && r.takes(o) {
			return &others[i]
		}
	}
	return nil
}

// inFront returns the rule with a priority that puts it before all others that can take its packets, if there is any
// room.
func inFront(others []otherRule, o object) object {
	for _, r := range others {
		if o.rule && r.takes(o) && r.priority <= o.priority {
			o.priority = max(r.priority, 1) - 1
		}
	}
	return o
}

// first returns the first of all objects that do the same, or nil.
func first(all []object, o object) *object {
	i := slices.IndexFunc(all, o.is)
	if i < 0 {
		return nil
	}
	return &all[i]
}

// readOther reads a rule that is none of the kind that we make. What we know to ask about no packet of ours is never
// met: the kernel asks with a mark, addresses and lo as the interface packets come from (ip_route_me_harder in
// net/ipv4/netfilter.c and its like for IPv6).
func readOther(message []byte, o object) (otherRule, error) {
	header := nl.DeserializeRtMsg(message)
	r := otherRule{
		family: o.family, order: o.order, priority: o.priority, table: uint32(header.Table),
		more:    header.Dst_len > 0 || header.Src_len > 0,
		negated: header.Flags&unix.FIB_RULE_INVERT != 0,
		never:   header.Tos != 0,
	}
	asked, leads := false, true
	switch header.Type {
	case unix.FR_ACT_TO_TBL:
	case unix.FR_ACT_NOP:
		leads = false
	default:
		r.table = 0 // it goes elsewhere, or nowhere
	}
	attrs, err := direct.UnmarshalAttributes(message[unix.SizeofRtMsg:])
	for _, a := range attrs {
		switch a.Type {
		case unix.FRA_TABLE:
			if r.table != 0 {
				r.table = number(a)
			}
		case unix.FRA_PRIORITY:
			r.priority = number(a)
		case unix.FRA_FWMARK:
			r.mark.Value, asked = number(a), true
		case unix.FRA_FWMASK:
			r.mark.Mask = number(a)
		case unix.FRA_IIFNAME:
			r.never = r.never || strings.TrimRight(string(a.Data), "\x00") != ruleset.Loopback
		case unix.FRA_OIFNAME, unix.FRA_IP_PROTO, unix.FRA_SPORT_RANGE, unix.FRA_DPORT_RANGE, unix.FRA_TUN_ID:
			r.never = true
		case unix.FRA_L3MDEV:
			leads = false
		case unix.FRA_UID_RANGE:
			r.more = true
		}
	}
	if !asked {
		r.mark = ruleset.Mark{}
	}
	if r.negated {
		r.more, r.never = r.more || r.never, false
	}
	r.never = r.never || !leads || r.table == unix.RT_TABLE_LOCAL
	return r, err
}

package iptables

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/mesh-intercept/intercept/ruleset"
)

// target lowers what happens to a packet.
func (l *lowering) target(r ruleset.Rule) ([]string, error) {
	t := r.Target
	switch t.(type) {
	case ruleset.Accept, ruleset.Return, ruleset.Goto, ruleset.CTZone:
	case ruleset.Drop, ruleset.Reject, ruleset.Jump, ruleset.Redirect, ruleset.DNAT, ruleset.Keep, ruleset.TProxy,
		ruleset.Divert, ruleset.SetMark, ruleset.SetConnMark:
		if l.table.name == "raw" {
			l.others = t
		}
	}
	switch t := t.(type) {
	case ruleset.Accept, ruleset.Divert:
		return []string{"-j", "ACCEPT"}, nil
	case ruleset.Return:
		return []string{"-j", "RETURN"}, nil
	case ruleset.Drop:
		if l.table.name == "nat" {
			return nil, fmt.Errorf("%w: xtables does not drop in its nat table", ruleset.ErrUnsupported)
		}
		return []string{"-j", "DROP"}, nil
	case ruleset.Reject:
		if l.table.name != "filter" {
			return nil, fmt.Errorf("%w: xtables rejects in its filter table alone", ruleset.ErrUnsupported)
		}
		switch {
		case r.OnlyTCP():
			return []string{"-j", "REJECT", "--reject-with", "tcp-reset"}, nil
		case l.family == ruleset.IPv4:
			return []string{"-j", "REJECT", "--reject-with", "icmp-port-unreachable"}, nil
		}
		return []string{"-j", "REJECT", "--reject-with", "icmp6-port-unreachable"}, nil
	case ruleset.Jump:
		return []string{"-j", chainName(t.Chain)}, nil
	case ruleset.Goto:
		return []string{"-g", chainName(t.Chain)}, nil
	case ruleset.Redirect:
		words := []string{"-j", "REDIRECT", "--to-ports", t.Ports.String()}
		if t.Ports.First != t.Ports.Last {
			// Without it all connections get the first port.
			words = append(words, "--random")
		}
		return words, nil
	case ruleset.DNAT:
		return []string{"-j", "DNAT", "--to-destination", t.To.String()}, nil
	case ruleset.Keep:
		// To its own address, and to a port that is any: the kernel leaves one that is in the range.
		return []string{"-j", "DNAT", "--to-destination", ":1-65535"}, nil
	case ruleset.TProxy:
		if l.table.name != "mangle" || slices.Contains(l.hooks, ruleset.Output) {
			return nil, fmt.Errorf("%w: xtables has TPROXY in its mangle table's PREROUTING alone", ruleset.ErrUnsupported)
		}
		mark := setMark(t.Mark.Value, t.Mark.Mask)
		return []string{"-j", "TPROXY", "--on-port", strconv.Itoa(int(t.Port)), "--tproxy-mark", mark}, nil
	case ruleset.SetMark:
		return []string{"-j", "MARK", "--set-xmark", setMark(t.Value, t.Mask)}, nil
	case ruleset.SetConnMark:
		return []string{"-j", "CONNMARK", "--set-xmark", setMark(t.Value, t.Mask)}, nil
	case ruleset.CTZone:
		if l.table.name != "raw" {
			return nil, fmt.Errorf("%w: xtables chooses zones in its raw table alone", ruleset.ErrUnsupported)
		}
		l.zones = true
		return []string{"-j", "CT", "--zone-orig", strconv.Itoa(int(t.Zone))}, nil
	}
	return nil, fmt.Errorf("%w for target %T", ruleset.ErrUnsupported, t)
}

// setMark writes a mark to set. xtables clears the bits of the mask and then flips those of the value: those outside
// the mask would depend on what was there.
func setMark(value, mask uint32) string { return fmt.Sprintf("%#x/%#x", value, mask|value) }

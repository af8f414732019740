package ruleset

import (
	"errors"
	"fmt"
	"slices"
)

// Check reports what every backend would stumble over: a rule that depends on
// a protocol it does not ask for, a negation that backends read differently,
// an address translation outside a NAT chain, a jump to nowhere, an empty
// list, an over-long comment, an ID that is none or not unique. Compile's rulesets have none of it.
func (rs Ruleset) Check() error {
	chains := map[string]Chain{}
	ids := map[RuleID]bool{}
	var errs []error
	for _, c := range rs.Chains {
		if _, dup := chains[c.Name]; dup {
			errs = append(errs, fmt.Errorf("chain %s: defined twice", c.Name))
		}
		chains[c.Name] = c
	}
	for _, c := range rs.Chains {
		for _, r := range c.Rules {
			if err := r.check(c, chains); err != nil {
				errs = append(errs, &RuleError{c.Name, r.ID, err})
			}
			if ids[r.ID] {
				errs = append(errs, &RuleError{c.Name, r.ID, errors.New("there is another rule with this ID")})
			}
			ids[r.ID] = true
		}
	}
	return errors.Join(errs...)
}

func (r Rule) check(c Chain, chains map[string]Chain) error {
	if err := r.ID.validate(); err != nil {
		return err
	}
	if n := len(r.Comment()); n > MaxComment {
		return fmt.Errorf("comment of %d bytes, over %d", n, MaxComment)
	}
	var protos Proto
	for _, m := range r.Match {
		inner, negated := m, false
		if n, is := m.(Not); is {
			inner, negated = n.Match, true
		}
		empty := false
		switch in := inner.(type) {
		case Proto:
			empty = len(in) == 0
			if !negated {
				protos = in
			}
		case SrcPort:
			empty = len(in) == 0
			if !protos.hasPorts() {
				return errors.New("a port without a protocol that has ports")
			}
		case DstPort:
			empty = len(in) == 0
			if !protos.hasPorts() {
				return errors.New("a port without a protocol that has ports")
			}
		case TCPFlags:
			if !r.OnlyTCP() {
				return fmt.Errorf("%s without protocol TCP", in)
			}
		case TCPHeader, MPTCP, Older:
			if len(protos) != 1 || protos[0] != TCP {
				return fmt.Errorf("%s without protocol TCP", in)
			}
		case ICMPEcho, ICMPQuote:
			if len(protos) == 0 || slices.ContainsFunc(protos, func(p Protocol) bool { return p != ICMP && p != ICMPv6 }) {
				return fmt.Errorf("%s without protocol ICMP or ICMPv6", in)
			}
		case CTDNAT, CTDirection, HasSocket, SocketOpen:
			if negated {
				return fmt.Errorf("not %s, on which backends disagree for packets without a connection or a socket", in)
			}
		case Src:
			empty = len(in) == 0
		case Dst:
			empty = len(in) == 0
		case UID:
			empty = len(in) == 0
			if negated {
				return errors.New("a negated owner, on which backends disagree for packets without a socket")
			}
		case GID:
			empty = len(in) == 0
			if negated {
				return errors.New("a negated owner, on which backends disagree for packets without a socket")
			}
		case InInterface, OutInterface, MetaMark, ConnMark, CTState, ToLocal, Length, IsFamily:
		case Not:
			return errors.New("a negation of a negation")
		default:
			return fmt.Errorf("unknown match %T", in)
		}
		if empty {
			return fmt.Errorf("%T with an empty list", inner)
		}
	}
	switch t := r.Target.(type) {
	case Redirect, DNAT, Keep:
		if c.Type != NATChain {
			return fmt.Errorf("%s outside a NAT chain", t)
		}
		return protos.checkOne(t)
	case TProxy:
		if c.Type == NATChain {
			return fmt.Errorf("%s in a NAT chain, which sees the first packet alone", t)
		}
		return protos.checkOne(t)
	case Divert:
		if c.Type == NATChain || !slices.Contains(r.Match, Match(SocketOpen{Transparent: true})) {
			return fmt.Errorf("%s in a NAT chain, or without a match on such a socket", t)
		}
	case Jump:
		return checkJump(c, chains, t.Chain)
	case Goto:
		return checkJump(c, chains, t.Chain)
	case Accept, Return, Drop, Reject, SetMark, SetConnMark, CTZone:
	default:
		return fmt.Errorf("unknown target %T", t)
	}
	return nil
}

func checkJump(c Chain, chains map[string]Chain, name string) error {
	to, ok := chains[name]
	switch {
	case !ok:
		return fmt.Errorf("continues in chain %q, which does not exist", name)
	case to.Hook != 0:
		return fmt.Errorf("continues in chain %q, which is a base chain", name)
	case to.Type != c.Type:
		return fmt.Errorf("continues in chain %q, of another type", name)
	}
	return nil
}

// checkOne makes sure that a target that rewrites ports knows the protocol:
// nft(8) and xtables both want it named in the rule.
func (p Proto) checkOne(t Target) error {
	if len(p) != 1 || !p.hasPorts() {
		return fmt.Errorf("%s without exactly one protocol that has ports", t)
	}
	return nil
}

func (p Proto) hasPorts() bool {
	return len(p) > 0 && !slices.ContainsFunc(p, func(q Protocol) bool { return q != TCP && q != UDP })
}

package decode

import (
	"errors"
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept"
)

// parseExclusions reads exclusions separated by semicolons, or "none".
func parseExclusions(s string) ([]intercept.Exclusion, error) {
	if strings.TrimSpace(s) == "none" {
		return nil, nil
	}
	var list []intercept.Exclusion
	var errs []error
	for item := range strings.SplitSeq(s, ";") {
		e, err := parseExclusion(item)
		if err != nil {
			errs = append(errs, Under(fmt.Sprintf("%q", strings.TrimSpace(item)), err))
			continue
		}
		list = append(list, e)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return list, nil
}

// parseInboundExclusions reads clients and ports, [CIDRS][:PORTS], separated by
// semicolons, or "none".
func parseInboundExclusions(s string) ([]intercept.InboundExclusion, error) {
	if strings.TrimSpace(s) == "none" {
		return nil, nil
	}
	var list []intercept.InboundExclusion
	var errs []error
	for item := range strings.SplitSeq(s, ";") {
		item = strings.TrimSpace(item)
		var e intercept.InboundExclusion
		var err error
		if words := strings.Fields(item); len(words) != 1 || !strings.ContainsAny(item, ".:/*[") {
			err = errors.New("write clients and ports in one word: [CIDRS][:PORTS]")
		} else {
			e.Sources, e.Ports, err = parseDestination(item)
		}
		if err != nil {
			errs = append(errs, Under(fmt.Sprintf("%q", item), err))
			continue
		}
		list = append(list, e)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return list, nil
}

const exclusionForm = "[tcp|udp] [CIDRS][:PORTS] [uid=IDS] [gid=IDS]"

// parseExclusion reads `udp 10.0.0.0/8:5000-6000 uid=1000-1999`: words in any
// order, each at most once.
func parseExclusion(s string) (intercept.Exclusion, error) {
	var e intercept.Exclusion
	words := strings.Fields(s)
	if len(words) == 0 {
		return e, errors.New("empty exclusion; write " + exclusionForm)
	}
	var errs []error
	seen := map[string]string{}
	for _, w := range words {
		kind, value, hasValue := strings.Cut(w, "=")
		var err error
		switch {
		case w == "tcp" || w == "udp":
			kind = "protocol"
			e.Protocol, err = intercept.ParseProtocol(w)
		case kind == "uid" && hasValue:
			e.UIDs, err = property(value, intercept.ParseIDs)
		case kind == "gid" && hasValue:
			e.GIDs, err = property(value, intercept.ParseIDs)
		case hasValue:
			err = fmt.Errorf("unknown property; write %s", exclusionForm)
		case !strings.ContainsAny(w, ".:/*["):
			err = fmt.Errorf("neither a protocol, nor a destination; write %s, and a port as :%s", exclusionForm, w)
		default:
			kind = "destination"
			e.CIDRs, e.Ports, err = parseDestination(w)
		}
		if other, twice := seen[kind]; twice && err == nil {
			err = fmt.Errorf("a second %s beside %q; a list is one word, with commas and without spaces, and no protocol is both", kind, other)
		}
		seen[kind] = w
		if err != nil && len(words) > 1 {
			err = Under(fmt.Sprintf("%q", w), err)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return intercept.Exclusion{}, err
	}
	return e, nil
}

// parseDestination reads CIDRS, :PORTS or both. IPv6 with ports needs
// brackets, and an IPv6 address alone, too: the end of fd00::1:53 can be meant
// as a port, and guessing wrong would capture what was to be left alone.
func parseDestination(s string) (intercept.CIDRs, intercept.Ports, error) {
	cidrText, portText, hasPorts := s, "", false
	switch {
	case strings.HasPrefix(s, "["):
		inside, rest, closed := strings.Cut(s[1:], "]")
		if !closed {
			return nil, nil, errors.New("a closing ] is missing")
		}
		cidrText = inside
		if rest != "" {
			if portText, hasPorts = strings.CutPrefix(rest, ":"); !hasPorts {
				return nil, nil, fmt.Errorf("%q after ]; write :PORTS there", rest)
			}
		}
	case strings.Count(s, ":") <= 1:
		cidrText, portText, hasPorts = strings.Cut(s, ":")
		if cidrText == "" {
			ports, err := property(portText, intercept.ParsePorts)
			return nil, ports, err
		}
	default:
		for item := range strings.SplitSeq(s, ",") {
			if _, bits, ok := strings.Cut(item, "/"); strings.Contains(item, ":") && (!ok || strings.Contains(bits, ":")) {
				return nil, nil, fmt.Errorf("%q can be an IPv6 address, or one and a port; write [%s], or [ADDRESS]:PORTS", item, item)
			}
		}
	}
	cidrs, err := property(cidrText, intercept.ParseCIDRs)
	if !hasPorts {
		return cidrs, nil, err
	}
	ports, portsErr := property(portText, intercept.ParsePorts)
	return cidrs, ports, errors.Join(err, portsErr)
}

// property reads a list that an exclusion needs to hold something: an empty
// one would match everything.
func property[L any](s string, parse func(string) (L, error)) (L, error) {
	if s == "" || s == "none" {
		var zero L
		return zero, fmt.Errorf("empty list %q; leave the property out if any value will do", s)
	}
	return parse(s)
}

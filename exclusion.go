package intercept

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/strict"
)

const (
	exclusionForm        = "[tcp|udp] [CIDRS][:PORTS] [uid=IDS] [gid=IDS]"
	inboundExclusionForm = "[CIDRS][:PORTS]"
)

// ParseExclusion reads the text form of an exclusion, words in any order and
// each at most once: `udp 10.0.0.0/8:5000-6000 uid=1000-1999`, `[fd00::/8]:53`.
// The errors joined name every mistake.
func ParseExclusion(s string) (Exclusion, error) {
	var e Exclusion
	words := strings.Fields(s)
	if len(words) == 0 {
		return e, errors.New("empty exclusion; write " + exclusionForm)
	}
	var errs strict.Errors
	seen := map[string]string{}
	for _, w := range words {
		kind, value, hasValue := strings.Cut(w, "=")
		var err error
		switch {
		case w == "tcp" || w == "udp":
			kind = "protocol"
			e.Protocol, err = ParseProtocol(w)
		case kind == "uid" && hasValue:
			e.UIDs, err = property(value, ParseIDs)
		case kind == "gid" && hasValue:
			e.GIDs, err = property(value, ParseIDs)
		case hasValue:
			err = fmt.Errorf("unknown property; write %s", exclusionForm)
		case !isDestination(w):
			err = fmt.Errorf("neither a protocol, nor a destination; write %s, and a port as :%s", exclusionForm, strict.Clip(w))
		default:
			kind = "destination"
			e.CIDRs, e.Ports, err = parseDestination(w)
		}
		if other, twice := seen[kind]; twice && err == nil {
			err = fmt.Errorf("a second %s beside %q; a list is one word, with commas and without spaces, "+
				"and no protocol is both",
				kind, strict.Clip(other))
		}
		seen[kind] = w
		if err != nil && len(words) > 1 {
			err = strict.Under(fmt.Sprintf("%q", strict.Clip(w)), err)
		}
		errs.Add(err)
	}
	if !errs.None() {
		return Exclusion{}, errs.Err()
	}
	return e, nil
}

// ParseInboundExclusion reads the text form of an inbound exclusion, clients
// and ports in one word: `10.0.0.0/8:8080-8090`, `:9090`, `[fd00::/8]:53`.
func ParseInboundExclusion(s string) (InboundExclusion, error) {
	words := strings.Fields(s)
	if len(words) != 1 || !isDestination(words[0]) {
		return InboundExclusion{}, errors.New("write clients and ports in one word: " + inboundExclusionForm)
	}
	sources, ports, err := parseDestination(words[0])
	if err != nil {
		return InboundExclusion{}, err
	}
	return InboundExclusion{sources, ports}, nil
}

// isDestination tells CIDRs and ports from other words.
func isDestination(word string) bool { return strings.ContainsAny(word, ".:/*[") }

// parseDestination reads CIDRS, :PORTS or both. IPv6 with ports needs
// brackets, and an IPv6 address alone, too: the end of fd00::1:53 can be meant
// as a port, and guessing wrong would capture what was to be left alone.
func parseDestination(s string) (CIDRs, Ports, error) {
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
				return nil, nil, fmt.Errorf("%q after ]; write :PORTS there", strict.Clip(rest))
			}
		}
	case strings.Count(s, ":") <= 1:
		cidrText, portText, hasPorts = strings.Cut(s, ":")
		if cidrText == "" {
			ports, err := property(portText, ParsePorts)
			return nil, ports, err
		}
	default:
		for item := range strings.SplitSeq(s, ",") {
			if _, bits, ok := strings.Cut(item, "/"); strings.Contains(item, ":") && (!ok || strings.Contains(bits, ":")) {
				item = strict.Clip(item)
				return nil, nil, fmt.Errorf("%q can be an IPv6 address, or one and a port; write [%s], or [ADDRESS]:PORTS",
					item, item)
			}
		}
	}
	cidrs, err := property(cidrText, ParseCIDRs)
	if !hasPorts {
		return cidrs, nil, err
	}
	ports, portsErr := property(portText, ParsePorts)
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

// String returns the text form, which [ParseExclusion] reads. That of an
// exclusion without properties is empty.
func (e Exclusion) String() string {
	var words []string
	if e.Protocol != 0 {
		words = append(words, e.Protocol.String())
	}
	if d := destinationText(e.CIDRs, e.Ports); d != "" {
		words = append(words, d)
	}
	if len(e.UIDs) > 0 {
		words = append(words, "uid="+e.UIDs.String())
	}
	if len(e.GIDs) > 0 {
		words = append(words, "gid="+e.GIDs.String())
	}
	return strings.Join(words, " ")
}

// String returns the text form, which [ParseInboundExclusion] reads. That of an
// exclusion without properties is empty.
func (e InboundExclusion) String() string { return destinationText(e.Sources, e.Ports) }

// destinationText is the inverse of parseDestination.
func destinationText(cidrs CIDRs, ports Ports) string {
	text := ""
	if len(cidrs) > 0 {
		text = cidrs.String()
		if text != "*" && slices.ContainsFunc(cidrs, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
			text = "[" + text + "]"
		}
	}
	if len(ports) > 0 {
		text += ":" + ports.String()
	}
	return text
}

// MarshalText writes the text form.
func (e Exclusion) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// MarshalText writes the text form.
func (e InboundExclusion) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads the text form.
func (e *Exclusion) UnmarshalText(b []byte) (err error) {
	*e, err = ParseExclusion(string(b))
	return err
}

// UnmarshalText reads the text form.
func (e *InboundExclusion) UnmarshalText(b []byte) (err error) {
	*e, err = ParseInboundExclusion(string(b))
	return err
}

// MarshalJSON writes an object with the properties that are given.
func (e Exclusion) MarshalJSON() ([]byte, error) {
	type plain Exclusion // without this method
	return json.Marshal(plain(e))
}

// MarshalJSON writes an object with the properties that are given.
func (e InboundExclusion) MarshalJSON() ([]byte, error) {
	type plain InboundExclusion // without this method
	return json.Marshal(plain(e))
}

// UnmarshalJSON reads an object with the properties, or the text form. It is as
// strict as that of [Config].
func (e *Exclusion) UnmarshalJSON(b []byte) error { return unmarshalJSON(b, e) }

// UnmarshalJSON reads an object with the properties, or the text form. It is as
// strict as that of [Config].
func (e *InboundExclusion) UnmarshalJSON(b []byte) error { return unmarshalJSON(b, e) }

// UnmarshalYAML reads a mapping with the properties, or the text form. It is as
// strict as that of [Config].
func (e *Exclusion) UnmarshalYAML(unmarshal func(any) error) error {
	return unmarshalYAML(unmarshal, e)
}

// UnmarshalYAML reads a mapping with the properties, or the text form. It is as
// strict as that of [Config].
func (e *InboundExclusion) UnmarshalYAML(unmarshal func(any) error) error {
	return unmarshalYAML(unmarshal, e)
}

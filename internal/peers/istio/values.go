package istio

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// The values of flags, as iptables takes them: istio-iptables hands most of them on as they stand.

// items are the items of a list. Spaces around them do not count, and empty ones are left out.
func items(list string) []string {
	var all []string
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			all = append(all, item)
		}
	}
	return all
}

// number reads a number as strtoul(3) does: decimal, 0x1f or 017.
func number(text string, bits int) (uint64, error) {
	if strings.ContainsAny(text, "_bBoO+") && !strings.HasPrefix(strings.ToLower(text), "0x") {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(text, 0, bits)
}

// span reads one number or two, separated by one of the characters.
func span(text, separators string, bits int) (first, last uint64, err error) {
	a, b := text, text
	if i := strings.IndexAny(text, separators); i >= 0 {
		a, b = text[:i], text[i+1:]
		if text[i] == ':' { // iptables fills in what is missing
			a, b = cmp.Or(a, "0"), cmp.Or(b, "65535")
		}
	}
	if first, err = number(a, bits); err != nil {
		return 0, 0, err
	}
	if last, err = number(b, bits); err == nil && first > last {
		err = fmt.Errorf("%d comes after %d", first, last)
	}
	return first, last, err
}

// ports reads a list of ports and of ranges, 8000:8010 or 8000-8010.
func (p *reader) ports(flag, list string) intercept.Ports {
	var ports intercept.Ports
	for _, item := range items(list) {
		first, last, err := span(item, ":-", 16)
		switch {
		case item == "*":
			p.fail(flag, "%s", onlyAlone(flag, list))
			return nil
		case err != nil:
			p.fail(flag, "%q is neither a port, from 1 to 65535, nor a range as 8000:8010", strict.Clip(item))
		case last == 0:
			p.r.Warn("%s: 0 is no port: passed over", p.from(flag))
		default:
			ports = append(ports, intercept.PortRange{First: uint16(max(first, 1)), Last: uint16(last)})
		}
	}
	if list != "" && strings.TrimSpace(list) == "" {
		p.fail(flag, "%q is no list of ports", list)
	}
	return ports
}

func onlyAlone(flag, list string) string {
	if flag == includeInboundFlag {
		return fmt.Sprintf("%q: * is all ports only where it stands alone; write it alone, or leave it out", strict.Clip(list))
	}
	return "* is not a list of ports; name them"
}

// port reads a port of the proxy, or a range over which connections are spread.
func (p *reader) port(flag, text string) intercept.PortRange {
	first, last, err := span(strings.TrimSpace(text), "-", 16)
	if err != nil || first == 0 {
		p.fail(flag, "%q is not a port, from 1 to 65535", strict.Clip(text))
	}
	return intercept.PortRange{First: uint16(first), Last: uint16(last)}
}

// tunnel reads the tunnel port. 0 is none.
func (p *reader) tunnel() uint16 {
	n, err := number(strings.TrimSpace(p.tunnelPort), 16)
	if err != nil {
		p.fail(tunnelPortFlag, "%q is not a port, from 1 to 65535", strict.Clip(p.tunnelPort))
	}
	return uint16(n)
}

// number reads a mark or a routing table, which istio-iptables takes in decimal.
func (p *reader) number(flag, text string) uint32 {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		p.fail(flag, "%q is not a number", strict.Clip(text))
	}
	return uint32(n)
}

// cidrs reads a list of networks. Bits that a network does not cover are left out.
func (p *reader) cidrs(flag, list string) intercept.CIDRs {
	if flag == includeCIDRsFlag && list == "*" {
		return nil
	}
	var cidrs intercept.CIDRs
	for _, item := range items(list) {
		c, err := netip.ParsePrefix(item)
		switch {
		case item == "*" && flag == includeCIDRsFlag:
			p.fail(flag, "%q: * is all destinations only where it stands alone; write it alone, or leave it out",
				strict.Clip(list))
		case item == "*":
			p.fail(flag, "* would exclude everything; capture nothing outbound with -i ''")
		case err != nil:
			p.fail(flag, "%q is not a CIDR, as 10.0.0.0/8, 10.1.2.3/32 or fd00::/8", strict.Clip(item))
		case c.Addr().Is4In6():
			p.fail(flag, "%q is IPv4 written as IPv6, which no packet has; write it as IPv4", item)
		default:
			cidrs = append(cidrs, c.Masked())
		}
	}
	return cidrs
}

// interfaces reads a list of names. A + at the end stands for any ending, with nftables a *.
func (p *reader) interfaces(flag, list string) []string {
	wildcard, other := "+", "*"
	if p.nftables {
		wildcard, other = other, wildcard
	}
	var names []string
	for _, item := range items(list) {
		stem, any := strings.CutSuffix(item, wildcard)
		if strings.HasSuffix(item, other) {
			p.r.Warn("%s: %q: no interface has a %s in its name: passed over; any ending is %s", p.from(flag),
				strict.Clip(item), other, wildcard)
			continue
		}
		if any {
			stem += "*"
		}
		names = append(names, stem)
	}
	return names
}

// identity reads who the proxy is.
func (p *reader) identity(proxy *intercept.Proxy) {
	uids := p.proxyUIDs
	if uids == "" {
		name, given := p.env[envoyUserVar]
		if !given {
			name = "istio-proxy"
		}
		uids = "1337"
		if id, ok := p.lookUp("/etc/passwd", name); ok {
			uids = id
		}
	}
	gids := cmp.Or(p.proxyGIDs, uids)
	proxy.UIDs = p.ids(p.from(proxyUIDFlag), "user", uids)
	from := p.from(proxyGIDFlag)
	if p.proxyGIDs == "" {
		from += " (as " + p.from(proxyUIDFlag) + ")"
	}
	proxy.GIDs = p.ids(from, "group", gids)
}

func (p *reader) includeGroups() string {
	if groups, given := p.env[includeGroupsVar]; given {
		return groups
	}
	return "*"
}

// groups reads whose outbound traffic is captured.
func (p *reader) groups(o *intercept.Outbound) {
	if include := p.includeGroups(); include != "*" {
		o.IncludeGIDs = p.ids(includeGroupsVar, "group", include)
		return
	}
	o.ExcludeGIDs = p.ids(excludeGroupsVar, "group", p.env[excludeGroupsVar])
}

// ids reads a list of users or groups: numbers, ranges and names.
func (p *reader) ids(source, kind, list string) intercept.IDs {
	file := map[string]string{"user": "/etc/passwd", "group": "/etc/group"}[kind]
	var ids intercept.IDs
	for _, item := range items(list) {
		text := item
		if id, ok := p.lookUp(file, item); ok {
			text = id
		}
		first, last, err := span(text, "-", 32)
		if err != nil || last > intercept.MaxID {
			p.errs.Add(&peers.FlagError{Flag: source, Err: fmt.Errorf(
				"%q is no number of a %s, nor the name of one in %s; write the number", strict.Clip(item), kind, file)})
			continue
		}
		ids = append(ids, intercept.IDRange{First: uint32(first), Last: uint32(last)})
	}
	return ids
}

// lookUp looks for a name in a file of users or groups, in which the number is the third field. An image may have none.
func (p *reader) lookUp(file, name string) (id string, found bool) {
	names, read := p.names[file]
	if !read {
		names = map[string]string{}
		p.names[file] = names
		text, _ := p.world.ReadFile(file)
		for line := range strings.Lines(string(text)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if _, twice := names[f[0]]; len(f) > 2 && f[0] != "" && !twice {
				names[f[0]] = f[2]
			}
		}
	}
	id, found = names[name]
	return id, found
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

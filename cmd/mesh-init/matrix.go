package main

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/ruleset"
)

// A class is a kind of traffic, and a packet of each family that stands for it.
type class struct {
	name    string
	packets []intercept.Packet
}

// classes are the kinds of traffic that a pod has, and those of which the configuration speaks.
func classes(c intercept.Config) []class {
	own := map[intercept.Family]netip.Addr{intercept.IPv4: netip.AddrFrom4([4]byte{10, 244, 0, 5}),
		intercept.IPv6: netip.AddrFrom16([16]byte{0xfd, 0, 2, 0x44, 15: 5})}
	app := &intercept.Owner{UID: 1000, GID: 1000}
	for c.Proxy.UIDs.Contains(app.UID) || c.Proxy.GIDs.Contains(app.GID) || c.Outbound.ExcludeUIDs.Contains(app.UID) {
		app = &intercept.Owner{UID: app.UID + 1, GID: app.GID + 1}
	}
	proxy := &intercept.Owner{UID: first(c.Proxy.UIDs), GID: first(c.Proxy.GIDs)}
	var all []class
	add := func(name string, make func(f intercept.Family) (intercept.Packet, bool)) {
		k := class{name: name}
		for _, f := range []intercept.Family{intercept.IPv4, intercept.IPv6} {
			if p, ok := make(f); ok {
				k.packets = append(k.packets, p)
			}
		}
		if len(k.packets) > 0 {
			all = append(all, k)
		}
	}
	packet := func(hook intercept.Hook, by string, owner *intercept.Owner, proto intercept.Protocol, src,
		dst netip.Addr, port uint16,
	) intercept.Packet {
		p := intercept.Packet{Hook: hook, Interface: by, Owner: owner, Protocol: proto,
			Src: netip.AddrPortFrom(src, somePort), Dst: netip.AddrPortFrom(dst, port), Listening: hook == intercept.Prerouting}
		if owner == proxy {
			p.Mark = c.Proxy.Mark.Value
		}
		return p
	}
	out := func(name string, owner *intercept.Owner, proto intercept.Protocol, port uint16) {
		add(name, func(f intercept.Family) (intercept.Packet, bool) {
			return packet(intercept.Output, "eth0", owner, proto, own[f], elsewhere(f), port), true
		})
	}
	to := func(name string, owner *intercept.Owner, proto intercept.Protocol, addrs func(intercept.Family) netip.Addr,
		port uint16,
	) {
		add(name, func(f intercept.Family) (intercept.Packet, bool) {
			dst, by := addrs(f), "eth0"
			if !dst.IsValid() {
				return intercept.Packet{}, false
			}
			src := own[f]
			if dst == own[f] || dst.IsLoopback() {
				src, by = dst, ruleset.Loopback
			}
			return packet(intercept.Output, by, owner, proto, src, dst, port), true
		})
	}
	in := func(name, by string, proto intercept.Protocol, src, dst func(intercept.Family) netip.Addr, port uint16) {
		add(name, func(f intercept.Family) (intercept.Packet, bool) {
			if !src(f).IsValid() || !dst(f).IsValid() {
				return intercept.Packet{}, false
			}
			p := packet(intercept.Prerouting, by, nil, proto, src(f), dst(f), port)
			p.Foreign = by != "eth0"
			return p, true
		})
	}
	pod := func(f intercept.Family) netip.Addr { return own[f] }
	server := elsewhere
	if c.DNS.Mode == intercept.DNSResolvConf {
		server = func(f intercept.Family) netip.Addr { return ofFamily(f, c.DNS.Servers) }
	}
	num := func(port uint16) string { return strconv.Itoa(int(port)) }

	out("app to elsewhere, TCP 80", app, intercept.TCP, 80)
	out("app to elsewhere, UDP 443", app, intercept.UDP, 443)
	to("app's lookup, UDP", app, intercept.UDP, server, 53)
	to("app's lookup, TCP", app, intercept.TCP, server, 53)
	to("app to its own pod, TCP 8080", app, intercept.TCP, pod, 8080)
	to("app to localhost, TCP 8080", app, intercept.TCP, localhost, 8080)
	out("root to elsewhere, TCP 80", &intercept.Owner{}, intercept.TCP, 80)
	for _, port := range some(c.Outbound.ExcludePorts) {
		out("app to elsewhere, TCP "+num(port)+" (excluded port)", app, intercept.TCP, port)
	}
	for _, port := range some(c.Outbound.IncludePorts) {
		out("app to elsewhere, TCP "+num(port)+" (included port)", app, intercept.TCP, port)
	}
	inside := func(list intercept.CIDRs) func(intercept.Family) netip.Addr {
		return func(f intercept.Family) netip.Addr { return member(f, list) }
	}
	if len(c.Outbound.ExcludeCIDRs) > 0 {
		to("app to an excluded network, TCP 80", app, intercept.TCP, inside(c.Outbound.ExcludeCIDRs), 80)
	}
	if len(c.Outbound.IncludeCIDRs) > 0 && !c.Outbound.IncludeCIDRs.All() {
		to("app to an included network, TCP 80", app, intercept.TCP, inside(c.Outbound.IncludeCIDRs), 80)
	}
	for _, ids := range []struct {
		what string
		list intercept.IDs
	}{{"excluded", c.Outbound.ExcludeUIDs}, {"included", c.Outbound.IncludeUIDs}} {
		if len(ids.list) > 0 {
			out(ids.what+" user to elsewhere, TCP 80", &intercept.Owner{UID: first(ids.list), GID: app.GID}, intercept.TCP, 80)
		}
	}

	out("proxy to elsewhere, TCP 80", proxy, intercept.TCP, 80)
	to("proxy's lookup, UDP", proxy, intercept.UDP, server, 53)
	to("proxy to its own pod, TCP 8080", proxy, intercept.TCP, pod, 8080)
	if c.TunnelPort != 0 {
		to("proxy to its own pod, TCP "+num(c.TunnelPort)+" (tunnel)", proxy, intercept.TCP, pod, c.TunnelPort)
	}
	add("proxy to the app, passthrough source", func(f intercept.Family) (intercept.Packet, bool) {
		src := ofFamily(f, c.PassthroughSources)
		return packet(intercept.Output, ruleset.Loopback, proxy, intercept.TCP, src, own[f], 8080), src.IsValid()
	})

	in("client to the pod, TCP 8080", "eth0", intercept.TCP, elsewhere, pod, 8080)
	in("client to the pod, UDP 8080", "eth0", intercept.UDP, elsewhere, pod, 8080)
	if c.TunnelPort != 0 {
		in("client to the pod, TCP "+num(c.TunnelPort)+" (tunnel)", "eth0", intercept.TCP, elsewhere, pod, c.TunnelPort)
	}
	for _, port := range some(c.Inbound.ExcludePorts) {
		in("client to the pod, TCP "+num(port)+" (excluded port)", "eth0", intercept.TCP, elsewhere, pod, port)
	}
	if len(c.Inbound.ExcludeSources) > 0 {
		in("excluded client to the pod, TCP 8080", "eth0", intercept.TCP, inside(c.Inbound.ExcludeSources), pod, 8080)
	}
	for _, name := range c.VirtualInterfaces {
		by := strings.ReplaceAll(name, "*", "0")
		guest := func(f intercept.Family) netip.Addr { return own[f].Next() }
		in("from behind "+name+" to elsewhere, TCP 80", by, intercept.TCP, guest, elsewhere, 80)
		in("from behind "+name+", a lookup, UDP", by, intercept.UDP, guest, server, 53)
	}
	return all
}

// some are the first ports of a list's ranges: enough to see that the list holds.
func some(list intercept.Ports) (ports []uint16) {
	const most = 4
	for _, r := range list[:min(len(list), most)] {
		ports = append(ports, r.First)
	}
	return ports
}

func elsewhere(f intercept.Family) netip.Addr {
	if f == intercept.IPv4 {
		return elsewhere4
	}
	return elsewhere6
}

func localhost(f intercept.Family) netip.Addr {
	if f == intercept.IPv4 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

func ofFamily(f intercept.Family, all []netip.Addr) netip.Addr {
	for _, a := range all {
		if intercept.FamilyOf(a) == f {
			return a
		}
	}
	return netip.Addr{}
}

// member is an address of a list of networks, of a family.
func member(f intercept.Family, list intercept.CIDRs) netip.Addr {
	for _, p := range list {
		if intercept.FamilyOf(p.Addr()) == f {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// matrixRow is what becomes of one class of traffic, in the families that Family names.
type matrixRow struct {
	Traffic string           `json:"traffic"`
	Family  string           `json:"family"`
	Fate    intercept.Fate   `json:"fate"`
	ID      intercept.RuleID `json:"id"`
	Reason  string           `json:"reason"`
}

// matrix is what becomes of each class of traffic.
func matrix(c intercept.Config) ([]matrixRow, error) {
	rs, err := intercept.Compile(c)
	if err != nil {
		return nil, err
	}
	var rows []matrixRow
	for _, k := range classes(c) {
		for i, p := range k.packets {
			trace, err := rs.Trace(p)
			if err != nil {
				return nil, err
			}
			row := matrixRow{k.name, intercept.FamilyOf(p.Dst.Addr()).String(), trace.Fate, trace.Rule, trace.Reason}
			if last := len(rows) - 1; i > 0 && rows[last].Fate == row.Fate {
				rows[last].Family = "both"
				continue
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func (j job) explainMatrix() error {
	rows, err := matrix(j.config)
	if err != nil {
		return cli.UsageError{Err: err}
	}
	return j.print(rows, func() string {
		table := []cli.Row{{"TRAFFIC", "FAMILY", "FATE", "RULE", "REASON"}}
		for _, r := range rows {
			table = append(table, cli.Row{r.Traffic, r.Family, r.Fate.String(), string(r.ID), r.Reason})
		}
		return cli.Table(table)
	})
}

//go:build linux

package peers

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// flow is a flow with the name that it has in records and in Differences: "tcp4 app>outside:80".
type flow struct {
	name string
	netlab.Flow
}

// people are senders in the pod by name. The proxy is the peer's own.
func (p Peer) people() map[string]intercept.Owner {
	return map[string]intercept.Owner{
		"root":  {},
		"app":   {UID: 1000, GID: 1000},
		"proxy": p.Proxy,
		// Of the proxy's user or group alone.
		"proxyuid": {UID: p.Proxy.UID, GID: 1000},
		"proxygid": {UID: 1000, GID: p.Proxy.GID},
	}
}

// flows reads Peer.Flows. Names of both families give two flows.
func (p Peer) flows() ([]flow, error) {
	var all []flow
	seen := map[string]bool{}
	for _, line := range p.Flows {
		flows, err := p.flow(line)
		if err != nil {
			return nil, fmt.Errorf("flow %q: %w", line, err)
		}
		for _, f := range flows {
			if seen[f.name] {
				return nil, fmt.Errorf("flow %q is there twice", f.name)
			}
			seen[f.name] = true
		}
		all = append(all, flows...)
	}
	return all, nil
}

func (p Peer) flow(line string) ([]flow, error) {
	protocol, way, ok1 := strings.Cut(line, " ")
	who, to, ok2 := strings.Cut(way, ">")
	i := strings.LastIndexByte(to, ':')
	if !ok1 || !ok2 || i < 0 {
		return nil, fmt.Errorf(`it is not "PROTOCOL WHO>ADDRESS:PORT"`)
	}
	f := netlab.Flow{}
	var err error
	if f.Protocol, err = intercept.ParseProtocol(protocol); err != nil {
		return nil, err
	}
	who, src, _ := strings.Cut(strings.TrimSuffix(who, ")"), "(")
	if err := p.sender(&f, who); err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(to[i+1:], 10, 16)
	if err != nil {
		return nil, err
	}
	dsts, err := netlab.Addresses(strings.Trim(to[:i], "[]"))
	if err != nil {
		return nil, err
	}
	var flows []flow
	for _, dst := range dsts {
		f.Dst, f.Src = netip.AddrPortFrom(dst, uint16(port)), netip.AddrPort{}
		if src != "" {
			srcs, err := netlab.Addresses(src)
			if err != nil {
				return nil, err
			}
			for _, src := range srcs {
				if src.Is4() == dst.Is4() {
					f.Src = netip.AddrPortFrom(src, 0)
				}
			}
		}
		family := "6 "
		if dst.Is4() {
			family = "4 "
		}
		flows = append(flows, flow{protocol + family + way, f})
	}
	return flows, nil
}

// sender reads who opens the flow.
func (p Peer) sender(f *netlab.Flow, who string) error {
	switch who {
	case "peer":
		f.From = netlab.FromPeer
		return nil
	case "vm":
		f.From = netlab.FromVM
		return nil
	}
	o, ok := p.people()[who]
	if !ok {
		if n, err := fmt.Sscanf(who, "%d:%d", &o.UID, &o.GID); n != 2 {
			return fmt.Errorf("%q is neither peer, vm, root, app, proxy, proxyuid, proxygid nor UID:GID: %w", who, err)
		}
	}
	f.Owner = &o
	return nil
}

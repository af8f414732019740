package istio

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/peers"
)

// Line is a command line of istio-iptables.
type Line struct {
	// Env are variables that it needs, KEY=VALUE.
	Env  []string
	Args []string
	// Otherwise are the paths of the fields in which what it asks for is not the configuration that it was written for.
	Otherwise []string
}

// Write writes the command line that is the nearest to a configuration. What it asks for is what [Parse] says: of the
// fields in which that is something else the line has the names.
func Write(c intercept.Config) (Line, error) {
	l := Line{}
	add := func(letter, value string) { l.Args = append(l.Args, "-"+letter, value) }
	long := func(flag string, on bool) {
		if on {
			l.Args = append(l.Args, "--"+flag)
		}
	}
	usual := intercept.Default()
	if c.Outbound.Port != usual.Outbound.Port {
		add("p", c.Outbound.Port.String())
	}
	if c.Inbound.Port != usual.Inbound.Port {
		add("z", c.Inbound.Port.String())
	}
	if c.TunnelPort != usual.TunnelPort {
		add("e", strconv.Itoa(int(c.TunnelPort)))
	}
	// The groups are those of the users unless they are said.
	if uids, gids := c.Proxy.UIDs.String(), c.Proxy.GIDs.String(); uids != usual.Proxy.UIDs.String() || uids != gids {
		add("u", uids)
		add("g", gids)
	}
	l.inbound(c.Inbound, add)
	add("i", list(c.Outbound.IncludeCIDRs))
	for _, more := range []struct {
		letter, text string
	}{
		{"x", list(c.Outbound.ExcludeCIDRs)}, {"q", listOf(c.Outbound.IncludePorts)}, {"o", listOf(c.Outbound.ExcludePorts)},
		{"c", wildcards(c.ExcludeInterfaces)}, {"k", wildcards(c.VirtualInterfaces)},
	} {
		if more.text != "" {
			add(more.letter, more.text)
		}
	}
	long(dnsFlag, c.DNS.Mode != intercept.DNSOff)
	long(allDNSFlag, c.DNS.Mode == intercept.DNSAll)
	long("drop-invalid", c.Inbound.DropInvalid)
	long(dualStackFlag, c.Families != intercept.FamiliesIPv4)
	if gids := c.Outbound.IncludeGIDs; len(gids) > 0 {
		l.Env = append(l.Env, includeGroupsVar+"="+gids.String())
	} else if gids := c.Outbound.ExcludeGIDs; len(gids) > 0 {
		l.Env = append(l.Env, excludeGroupsVar+"="+gids.String())
	}
	return l, l.compare(c)
}

func (l *Line) inbound(in intercept.Inbound, add func(letter, value string)) {
	switch in.Mode {
	case intercept.InboundOff:
		add("b", "")
		return
	case intercept.InboundTProxy:
		add("m", tproxyMode)
		add("t", strconv.FormatUint(uint64(in.TProxy.Mark.Value), 10))
		add("r", strconv.FormatUint(uint64(in.TProxy.Table), 10))
	case intercept.InboundRedirect:
	}
	if all := intercept.AllPorts(); in.IncludePorts.String() != all.String() {
		add("b", listOf(in.IncludePorts))
		return
	}
	add("b", "*")
	if ports := listOf(in.ExcludePorts); ports != "" {
		add("d", ports)
	}
}

// compare reads the line as in a pod that has both families and the configuration's name servers.
func (l *Line) compare(c intercept.Config) error {
	w := peers.World{
		Environ: l.Env,
		Addresses: func(dataplane.Pod) ([]netip.Addr, error) {
			return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: 1})}, nil
		},
		ReadFile: func(name string) ([]byte, error) {
			if name != resolvConf {
				return nil, fs.ErrNotExist
			}
			var b strings.Builder
			for _, s := range c.DNS.Servers {
				fmt.Fprintf(&b, "nameserver %s\n", s)
			}
			return []byte(b.String()), nil
		},
	}
	r, err := Parse(append(l.Args, "--"+lenientFlag), w)
	if err != nil {
		return errors.Join(errors.New("its flags cannot say this configuration"), err)
	}
	is := decode.Settings(r.Config, true)
	for i, s := range decode.Settings(c, true) {
		if s.Text != is[i].Text {
			l.Otherwise = append(l.Otherwise, s.Field.Path)
		}
	}
	return nil
}

// list is a list of networks, as istio-iptables takes it: empty, if nothing is in it.
func list(c intercept.CIDRs) string {
	if c.String() == intercept.AllCIDRs().String() {
		return "*"
	}
	var all []string
	for _, p := range c {
		all = append(all, p.String())
	}
	return strings.Join(all, ",")
}

func listOf(ports intercept.Ports) string {
	var all []string
	for _, p := range ports {
		all = append(all, p.String())
	}
	return strings.Join(all, ",")
}

// wildcards has a + where a name stands for any ending.
func wildcards(names []string) string {
	all := make([]string, len(names))
	for i, n := range names {
		if stem, any := strings.CutSuffix(n, "*"); any {
			n = stem + "+"
		}
		all[i] = n
	}
	return strings.Join(all, ",")
}

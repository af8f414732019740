//go:build linux

package dataplane

import (
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestNetworkWarnings: apply and doctor name what of the pod's network keeps connections from the proxy, where it does.
func TestNetworkWarnings(t *testing.T) {
	link := func(t *testing.T, name string) netlink.Link {
		t.Helper()
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	noIPv6 := func(*testing.T) error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6", []byte("1"), 0)
	}
	onLo := func(t *testing.T) error {
		eth0 := link(t, "eth0")
		addrs, err := netlink.AddrList(eth0, netlink.FAMILY_V4)
		for _, a := range addrs {
			err = netlink.AddrDel(eth0, &a)
		}
		if err != nil {
			return err
		}
		own, err := netlink.ParseAddr("10.244.0.5/32")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(link(t, "lo"), own)
	}
	passthroughAlone := func(t *testing.T) error {
		eth0 := link(t, "eth0")
		addrs, err := netlink.AddrList(eth0, netlink.FAMILY_V6)
		for _, a := range addrs {
			err = netlink.AddrDel(eth0, &a)
		}
		if err != nil {
			return err
		}
		own, err := netlink.ParseAddr("::6/128")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(link(t, "lo"), own)
	}
	const downWarning, noneWarning, onLoWarning = "lo is down", "lo has no ::1", "10.244.0.5 is on lo alone"
	for name, tt := range map[string]struct {
		network  func(*testing.T) error
		families intercept.Families
		mode     intercept.InboundMode
		want     string
		wiring   bool // the network is unfinished
	}{
		"as usual":         {func(*testing.T) error { return nil }, "", "", "", false},
		"lo down":          {func(t *testing.T) error { return netlink.LinkSetDown(link(t, "lo")) }, "", "", downWarning, false},
		"and not finished": {func(t *testing.T) error { return netlink.LinkSetDown(link(t, "lo")) }, "", "", "", true},
		"no IPv6 on lo":    {noIPv6, "", "", noneWarning, false},
		"IPv4 alone":       {noIPv6, intercept.FamiliesIPv4, "", "IPv6 is not captured", false},
		"address on lo":    {onLo, "", "", onLoWarning, false},
		"IPv4 alone, and no address of IPv6 but the one that apply has put on lo": {passthroughAlone, intercept.FamiliesIPv4, "", "", false},
		"and tproxy":         {onLo, "", intercept.InboundTProxy, "", false},
		"and IPv6 alone":     {onLo, intercept.FamiliesIPv6, "", "IPv4 is not captured", false},
		"no IPv6 in the pod": {noIPv6InPod, "", "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			lab := netlab.NewT(t, netlab.Options{})
			if err := lab.Pod.Do(func() error { return tt.network(t) }); err != nil {
				t.Fatal(err)
			}
			c := intercept.Default()
			if tt.families != "" {
				c.Families = tt.families
			}
			if tt.mode != "" {
				c.Inbound.Mode = tt.mode
			}
			pod := Pod{NetNS: lab.Pod.Path(), Backend: BackendNFT, Unfinished: tt.wiring}
			report, err := pod.Probe(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			result, err := pod.Apply(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			for _, warned := range [][]string{report.Warnings, result.Warnings} {
				got := strings.Join(warned, "\n")
				if !strings.Contains(got, tt.want) || tt.want == "" && got != "" || strings.Contains(got, "\n") {
					t.Errorf("%q; want %q", got, tt.want)
				}
			}
		})
	}
}

func noIPv6InPod(*testing.T) error {
	return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)
}

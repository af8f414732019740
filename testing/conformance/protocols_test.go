//go:build linux

package conformance

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// datagram is a packet of a protocol that no proxy takes.
type datagram struct {
	name     string
	protocol [2]int // by family
	data     [2][]byte
	echo     bool
	extended bool // an echo request, too
}

// datagrams are of all kinds, by the numbers of iana.org/assignments/protocol-numbers.
func datagrams() []datagram {
	all := []datagram{
		{name: "echo request", protocol: [2]int{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}, echo: true,
			data: [2][]byte{{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, {128, 0, 0, 0, 0, 0, 0, 0}}},
		{name: "extended echo request", protocol: [2]int{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}, extended: true,
			data: [2][]byte{{42, 0, 0xd5, 0xff, 0, 0, 0, 0}, {160, 0, 0, 0, 0, 0, 0, 0}}},
		{name: "echo reply", protocol: [2]int{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6},
			data: [2][]byte{{0, 0, 0xff, 0xff, 0, 0, 0, 0}, {129, 0, 0, 0, 0, 0, 0, 0}}},
	}
	for name, number := range map[string]int{
		"SCTP": unix.IPPROTO_SCTP, "DCCP": unix.IPPROTO_DCCP, "UDP-Lite": unix.IPPROTO_UDPLITE, "GRE": unix.IPPROTO_GRE,
		"IP in IP": unix.IPPROTO_IPIP, "a protocol without a name": 253,
	} {
		data := make([]byte, 32)
		data[5] = 8 // the checksum's coverage, where there is one
		all = append(all, datagram{name: name, protocol: [2]int{number, number}, data: [2][]byte{data, data}})
	}
	return all
}

// TestOtherProtocols sends what is neither TCP nor UDP (B8): from senders whose
// TCP is captured and from others, to destinations to which it is and to
// others.
func TestOtherProtocols(t *testing.T) {
	c := intercept.Default()
	c.Outbound.ExcludeUIDs = intercept.IDs{intercept.ID(2000)}
	at := func(word string) (both intercept.CIDRs) {
		for _, a := range named(word) {
			both = append(both, netip.PrefixFrom(a, a.BitLen()))
		}
		return both
	}
	c.Outbound.ExcludeCIDRs = at("other")
	c.Outbound.Exclude = []intercept.Exclusion{
		{CIDRs: at("dns")},
		{CIDRs: at("cluster"), Ports: intercept.Ports{intercept.Port(443)}},
	}
	excluded := &intercept.Owner{UID: 2000, GID: 2000}
	sent := []struct {
		who      *intercept.Owner
		to       string
		rejected bool
	}{
		{app, "outside", true}, {proxy, "outside", false}, {excluded, "outside", false},
		{app, "other", false}, {app, "dns", false}, {app, "cluster", true}, {app, "pod", false}, {app, "localhost", false},
	}
	for _, test := range []struct {
		name   string
		set    func(*intercept.Config)
		reject [2]bool // by family
	}{
		{"pass", func(*intercept.Config) {}, [2]bool{}},
		{"reject", func(c *intercept.Config) { c.Outbound.OtherProtocols = intercept.TreatmentReject }, [2]bool{true, true}},
		{"reject, and UDP", func(c *intercept.Config) {
			c.Outbound.OtherProtocols, c.Outbound.UDP = intercept.TreatmentReject, intercept.TreatmentReject
		}, [2]bool{true, true}},
		{"reject, and IPv6", func(c *intercept.Config) {
			c.Outbound.OtherProtocols = intercept.TreatmentReject
			c.Families, c.OtherFamily = intercept.FamiliesIPv4, intercept.TreatmentReject
		}, [2]bool{true, true}},
		{"reject, and not IPv6", func(c *intercept.Config) {
			c.Outbound.OtherProtocols, c.Families = intercept.TreatmentReject, intercept.FamiliesIPv4
		}, [2]bool{true, false}},
	} {
		c := c
		test.set(&c)
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, backend := range backends {
			t.Run(fmt.Sprintf("%s/%s", backend, test.name), func(t *testing.T) {
				t.Parallel()
				requireIPTables(t)
				lab := netlab.NewT(t, netlab.Options{})
				if _, err := (dataplane.Pod{NetNS: lab.Pod.Path(), Backend: backend}).Apply(t.Context(), c); err != nil {
					t.Fatal(err)
				}
				watch := watchPod(t, lab)
				for family := range 2 {
					for _, s := range sent {
						for _, d := range datagrams() {
							want := passed
							if s.rejected && test.reject[family] && (d.echo || d.name != "echo reply") {
								want = rejected
							}
							to := named(s.to)[family]
							p := netlab.Flow{Protocol: intercept.UDP, Dst: netip.AddrPortFrom(to, 1), Owner: s.who}.Packet(lab)
							p.Protocol, p.Echo, p.ExtendedEcho = intercept.Protocol(d.protocol[family]), d.echo, d.extended
							p.Src, p.Dst = netip.AddrPortFrom(p.Src.Addr(), 0), netip.AddrPortFrom(to, 0)
							trace, err := rs.Trace(p)
							if err != nil || trace.Fate != want {
								t.Errorf("%s to %s as %+v: Trace says %s by %s, %v; not %s",
									d.name, to, *s.who, trace.Fate, trace.Rule, err, want)
							}
							if got := d.send(t, lab, watch, family, p); got != want {
								t.Errorf("%s to %s as %+v: the kernel says %s, not %s", d.name, to, *s.who, got, want)
							}
						}
					}
				}
			})
		}
	}
}

// send sends the datagram, and says whether it leaves.
func (d datagram) send(
	t *testing.T, lab *netlab.Lab, watch *netlab.Watch, family int, p intercept.Packet,
) intercept.Fate {
	t.Helper()
	domain := []int{unix.AF_INET, unix.AF_INET6}[family]
	fd, err := lab.Pod.SocketOf(domain, unix.SOCK_RAW, d.protocol[family], p.Owner)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := watch.SoFar(); err != nil {
		t.Fatal(err)
	}
	err = unix.Sendto(fd, d.data[family], 0, netlab.Sockaddr(p.Dst))
	refused := errors.Is(err, unix.EPERM)
	if err != nil && !refused {
		t.Fatalf("%s to %s: %v", d.name, p.Dst, err)
	}
	seen, err := watch.SoFar()
	if err != nil {
		t.Fatal(err)
	}
	leaves := slices.ContainsFunc(seen, func(s netlab.Seen) bool {
		return s.Sent && s.Interface == p.Interface && s.Protocol == p.Protocol && s.Dst.Addr() == p.Dst.Addr()
	})
	switch {
	case leaves && !refused:
		return passed
	case refused && !leaves:
		return rejected
	}
	return dropped
}

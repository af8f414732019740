//go:build linux

package traffic

import (
	"net/netip"
	"regexp"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestListsWhileReplaced: rules are replaced while connections are opened that lists decide about. The kernel has the
// lists when it has the rules: no client gets past the proxy because its port is on no list yet, and no connection of
// the proxy's comes back to it because its user is on none.
func TestListsWhileReplaced(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	b := byNFT.open(t, lab)
	var both []intercept.Ruleset
	for _, other := range []uint16{100, 300} {
		c := intercept.Default()
		c.Proxy.UIDs = intercept.IDs{intercept.ID(uint32(other)), intercept.ID(1337), intercept.ID(5000)}
		c.Proxy.GIDs = nil
		c.Inbound.IncludePorts = intercept.Ports{intercept.Port(other), {First: 8081, Last: 8090}}
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, rs)
	}
	apply(t, b, both[0])
	runIn(t, lab.Pod, "nft", `table inet others {
		counter arrived {}
		counter past {}
		counter sent {}
		counter loop {}
		chain arrives {
			type filter hook input priority 100
			iif eth0 tcp flags & (fin|syn|rst|ack) == syn counter name arrived
			iif eth0 tcp dport 8081 tcp flags & (fin|syn|rst|ack) == syn counter name past
		}
		chain sends {
			type filter hook output priority 100
			meta skuid 1337 tcp flags & (fin|syn|rst|ack) == syn counter name sent
			meta skuid 1337 tcp dport 15001 tcp flags & (fin|syn|rst|ack) == syn counter name loop
		}
	}`)
	stop := make(chan struct{})
	var sending sync.WaitGroup
	send := func(ns *netlab.Namespace, owner *intercept.Owner, from, to netip.AddrPort) {
		sending.Go(func() {
			if err := openings(ns, owner, from, to, stop); err != nil {
				t.Error(err)
			}
		})
	}
	client, pod := netip.MustParseAddrPort("203.0.113.1:1024"), netip.MustParseAddrPort("10.244.0.5:1024")
	send(lab.Peer, nil, client, netip.MustParseAddrPort("10.244.0.5:8081"))
	send(lab.Pod, &intercept.Owner{UID: 1337, GID: 1337}, pod, netip.MustParseAddrPort("198.18.0.9:443"))
	for n := range 400 {
		apply(t, b, both[(n+1)%len(both)])
		if n%20 == 0 { // ports are used again
			if err := lab.Pod.FlushEntries(); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	sending.Wait()
	counts := map[string]string{}
	for _, m := range regexp.MustCompile(`counter (\w+) \{\s+packets (\d+)`).
		FindAllStringSubmatch(runIn(t, lab.Pod, "nft", "", "list", "counters", "table", "inet", "others"), -1) {
		counts[m[1]] = m[2]
	}
	if len(counts) != 4 || counts["arrived"] == "0" || counts["sent"] == "0" || counts["past"] != "0" ||
		counts["loop"] != "0" {
		t.Errorf("connections that were opened: %v", counts)
	}
}

// openings sends first packets of connections, each from another port.
func openings(ns *netlab.Namespace, owner *intercept.Owner, from, to netip.AddrPort, stop <-chan struct{}) error {
	fd, err := ns.SocketOf(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW, owner)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for n := uint16(0); err == nil; n++ {
		select {
		case <-stop:
			return nil
		default:
		}
		src := netip.AddrPortFrom(from.Addr(), from.Port()+n%60_000)
		err = unix.Sendto(fd, netlab.Segment{Src: src, Dst: to, Flags: intercept.SYN}.Packet(), 0, netlab.Sockaddr(to))
		switch err {
		case unix.EPERM, unix.ECONNREFUSED, // rejected
			unix.EAGAIN: // those before it are still on their way
			err = nil
		}
	}
	return err
}

//go:build linux

package traffic

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestBoundToInterface: what a socket sends that is bound to an interface comes
// to the proxy like what others send, by every interface of the pod. What is not
// captured goes where it is to go.
func TestBoundToInterface(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab := netlab.NewT(t, netlab.Options{SecondInterface: true})
		if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
			t.Fatal(err)
		}
		c := intercept.Default()
		c.DNS.Mode = intercept.DNSAll
		applyConfig(t, w.target(t, lab), c)
		for dev, dsts := range map[string][]string{
			"eth0": {"203.0.113.10", "2001:db8::10"}, "net1": {"198.51.100.7", "2001:db8:1::7"},
		} {
			for _, dst := range dsts {
				for port, want := range map[uint16]intercept.Fate{
					80: intercept.RedirectedTo(15001), 53: intercept.RedirectedTo(15053),
				} {
					f := netlab.Flow{Protocol: intercept.TCP, Device: dev, Owner: app,
						Dst: netip.AddrPortFrom(netip.MustParseAddr(dst), port)}
					expectFate(t, lab, f, want)
					f.Owner = proxy
					expectFate(t, lab, f, intercept.Fate{})
				}
				lookup := netlab.Flow{Protocol: intercept.UDP, Device: dev, Owner: app,
					Dst: netip.AddrPortFrom(netip.MustParseAddr(dst), 53)}
				expectFate(t, lab, lookup, intercept.RedirectedTo(15053))
				lookup.Owner = proxy
				expectFate(t, lab, lookup, intercept.Fate{})
			}
		}
	})
}

// TestBoundWithoutRoutes is TestBoundToInterface without what makes it pass: the
// connection waits in vain.
func TestBoundWithoutRoutes(t *testing.T) {
	lab, b := labWithSidecar(t, byNFT)
	rs, err := intercept.Compile(intercept.Default())
	if err != nil {
		t.Fatal(err)
	}
	apply(t, b, rs)
	for _, dst := range outside {
		f := netlab.Flow{Protocol: intercept.TCP, Device: "eth0", Owner: app, Dst: dst}
		expectFate(t, lab, f, intercept.Fate{Action: intercept.Dropped})
	}
}

// TestLinkLocal: connections and lookups to a neighbour's link-local address are
// captured like others.
func TestLinkLocal(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab := netlab.NewT(t, netlab.Options{})
		if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
			t.Fatal(err)
		}
		c := intercept.Default()
		c.DNS.Mode = intercept.DNSAll
		applyConfig(t, w.target(t, lab), c)
		neighbour := linkLocal(t, lab.Peer, "eth0")
		if got, err := call(lab, unix.SOCK_STREAM, neighbour, 80); err != nil || got.Role != netlab.RoleOutbound {
			t.Errorf("a connection: %+v, %v", got, err)
		}
		if got, err := call(lab, unix.SOCK_DGRAM, neighbour, 53); err != nil || got.Role != netlab.RoleDNS {
			t.Errorf("a lookup: %+v, %v", got, err)
		}
	})
}

// linkLocal returns a link-local address of an interface.
func linkLocal(t *testing.T, ns *netlab.Namespace, name string) (found netip.Addr) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; <-time.After(10 * time.Millisecond) { // it comes to be in its own time
		err := ns.Do(func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(link, netlink.FAMILY_V6)
			for _, a := range addrs {
				if addr, ok := netip.AddrFromSlice(a.IP); ok && addr.IsLinkLocalUnicast() {
					found = addr
				}
			}
			return err
		})
		if err != nil || !found.IsValid() && time.Now().After(end) {
			t.Fatalf("%s has no link-local address: %v", name, err)
		}
		if found.IsValid() {
			return found
		}
	}
}

// call connects to a link-local address by eth0, as the app, and returns who
// answers.
func call(lab *netlab.Lab, typ int, to netip.Addr, port int) (b netlab.Banner, err error) {
	fd, err := lab.Pod.Socket(unix.AF_INET6, typ, app)
	if err != nil {
		return b, err
	}
	file := os.NewFile(uintptr(fd), "client")
	defer file.Close()
	var eth0 int
	err = lab.Pod.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil {
			eth0 = link.Attrs().Index
		}
		return err
	})
	if err != nil {
		return b, err
	}
	err = unix.Connect(fd, &unix.SockaddrInet6{Addr: to.As16(), Port: port, ZoneId: uint32(eth0)})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return b, fmt.Errorf("connect: %w", err)
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return b, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return b, err
	}
	if typ == unix.SOCK_STREAM {
		if _, err := conn.Write([]byte("whoami\n")); err != nil {
			return b, err
		}
		return b, json.NewDecoder(conn).Decode(&b)
	}
	if err := ask(conn, 7); err != nil {
		return b, err
	}
	answers := make(chan answer, 1)
	go readAnswers(conn, answers)
	select {
	case a := <-answers:
		return a.Banner, nil
	case <-time.After(3 * time.Second):
		return b, os.ErrDeadlineExceeded
	}
}

// TestTProxySysctls: mode tproxy works whatever the namespace says of reverse
// paths and of marks, which an init container often cannot change.
func TestTProxySysctls(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for _, forward := range []netlab.Forward{netlab.ForwardNothing, netlab.ForwardOriginalSource} {
			lab, _ := tproxyLab(t, w, netlab.SidecarConfig{Forward: forward, ForwardMark: 1337})
			for setting := range 16 {
				bit := func(n int) string { return string(rune('0' + setting>>n&1)) }
				err := lab.Pod.Do(func() error {
					var errs []error
					for pattern, value := range map[string]string{
						"ipv4/conf/*/rp_filter": bit(0), "ipv4/conf/*/src_valid_mark": bit(1),
						"ipv4/tcp_fwmark_accept": bit(2), "ipv4/fwmark_reflect": bit(3), "ipv6/fwmark_reflect": bit(3),
					} {
						files, err := filepath.Glob("/proc/sys/net/" + pattern)
						errs = append(errs, err)
						for _, file := range files {
							errs = append(errs, os.WriteFile(file, []byte(value), 0))
						}
					}
					return errors.Join(errs...)
				})
				if err != nil {
					t.Fatal(err)
				}
				for _, pod := range pods {
					f := netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP, Dst: pod}
					if got, err := lab.Send(f); err != nil || got.Fate != transparently {
						t.Errorf("rp_filter %s, src_valid_mark %s, tcp_fwmark_accept %s, fwmark_reflect %s: %s: %s, %v",
							bit(0), bit(1), bit(2), bit(3), f, got, err)
					}
				}
			}
		}
	})
}

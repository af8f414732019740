//go:build linux

package traffic

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// A datagram belongs to the conversation that it answers, whatever its ports are.

// datagrams opens a UDP socket that is bound to an address and port.
func datagrams(t *testing.T, ns *netlab.Namespace, owner *intercept.Owner, local netip.AddrPort) *net.UDPConn {
	t.Helper()
	return connected(t, ns, owner, local, netip.AddrPort{})
}

// connected opens a UDP socket that is bound, at the peer perhaps to an address of somebody else, and talks with one
// other if that is valid: to those alone the peer gives what comes for others.
func connected(t *testing.T, ns *netlab.Namespace, owner *intercept.Owner, local, with netip.AddrPort) *net.UDPConn {
	t.Helper()
	domain, level, transparent := unix.AF_INET, unix.SOL_IP, unix.IP_TRANSPARENT
	if local.Addr().Is6() {
		domain, level, transparent = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	fd, err := ns.Socket(domain, unix.SOCK_DGRAM, owner)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "udp")
	defer file.Close()
	if owner == nil {
		err = unix.SetsockoptInt(fd, level, transparent, 1)
	}
	if err := errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, netlab.Sockaddr(local))); err != nil {
		t.Fatalf("%s: %v", local, err)
	}
	if with.IsValid() {
		if err := unix.Connect(fd, netlab.Sockaddr(with)); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UDPConn)
}

// send sends a datagram, by a socket that talks with one other to that.
func send(conn *net.UDPConn, to netip.AddrPort, b []byte) error {
	if conn.RemoteAddr() != nil {
		_, err := conn.Write(b)
		return err
	}
	_, err := conn.WriteToUDPAddrPort(b, to)
	return err
}

// echo answers every datagram with the same, and a name before it, until the socket is closed.
func echo(conn *net.UDPConn, name string) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_ = send(conn, from, append([]byte(name+":"), buf[:n]...))
		}
	}
}

// exchange sends a datagram and returns the answer, or why there is none.
func exchange(conn *net.UDPConn, to netip.AddrPort, text string) (string, error) {
	if err := send(conn, to, []byte(text)); err != nil {
		return "", err
	}
	if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	buf := make([]byte, 1<<16)
	n, from, err := conn.ReadFromUDPAddrPort(buf)
	if from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port()); from != to && err == nil {
		return "", errors.New("the answer is from " + from.String())
	}
	return string(buf[:n]), err
}

var (
	nobody  = &intercept.Owner{UID: 101, GID: 101}
	servers = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.53:53"), netip.MustParseAddrPort("[2001:db8::53]:53")}
)

// capturing returns configurations that capture lookups to servers.
func capturing() map[string]intercept.Config {
	all := intercept.Default()
	all.DNS.Mode = intercept.DNSAll
	some := all
	some.DNS.Mode = intercept.DNSResolvConf
	for _, s := range servers {
		some.DNS.Servers = append(some.DNS.Servers, s.Addr())
	}
	return map[string]intercept.Config{"all": all, "resolvconf": some}
}

// TestServersAnswerPort53: a server in the pod, on port 53 or another, answers those who ask from any port, 53 too, and
// afterwards the app's own lookups from there are captured all the same.
func TestServersAnswerPort53(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for name, c := range capturing() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				lab := netlab.NewT(t, netlab.Options{})
				if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
					t.Fatal(err)
				}
				applyConfig(t, w.target(t, lab), c)
				for i, server := range servers {
					for _, port := range []uint16{53, 5300} {
						at := netip.AddrPortFrom(pods[i].Addr(), port)
						app := datagrams(t, lab.Pod, nobody, at)
						go echo(app, "app")
						for _, from := range []uint16{53, 5353, 40000} {
							client := connected(t, lab.Peer, nil, netip.AddrPortFrom(server.Addr(), from), at)
							if got, err := exchange(client, at, "hello"); err != nil || got != "app:hello" {
								t.Errorf("port %d of the pod, asked from %s: %q, %v", port, client.LocalAddr(), got, err)
							}
							client.Close()
						}
						app.Close()
					}
					expectFate(t, lab, netlab.Flow{Protocol: intercept.UDP, Dst: server, Owner: app,
						Src: netip.AddrPortFrom(pods[i].Addr(), 5301)}, intercept.RedirectedTo(15053))
				}
			})
		}
	})
}

// TestServerSpeaksFirst: a server that sends to a port of the pod to which nobody listens makes no answer of the lookup
// that an app sends from there next (B7). Without the backstop it does.
func TestServerSpeaksFirst(t *testing.T) {
	eachBackstop(t, func(t *testing.T, w way, backstop intercept.Backstop) {
		for name, c := range capturing() {
			lab := netlab.NewT(t, netlab.Options{})
			if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
				t.Fatal(err)
			}
			c.Backstop = backstop
			applyConfig(t, w.target(t, lab), c)
			for i, server := range servers {
				at := netip.AddrPortFrom(pods[i].Addr(), 41234)
				early := datagrams(t, lab.Peer, nil, server)
				for range 3 {
					if _, err := early.WriteToUDPAddrPort([]byte("hello"), at); err != nil {
						t.Fatal(err)
					}
				}
				early.Close()
				want := intercept.RedirectedTo(15053)
				if backstop == intercept.BackstopOff {
					want = intercept.Fate{}
				}
				f := netlab.Flow{Protocol: intercept.UDP, Dst: server, Src: at, Owner: app}
				if got, err := lab.Send(f); err != nil || got.Fate != want {
					t.Errorf("%s: %s: %s, %v; want %s", name, f, got, err, want)
				}
			}
		}
	})
}

// embedded is what Docker writes for its embedded name server, which listens on port 41053.
const embedded = `*nat
:DOCKER_OUTPUT - [0:0]
:DOCKER_POSTROUTING - [0:0]
-A OUTPUT -d 127.0.0.11/32 -j DOCKER_OUTPUT
-A POSTROUTING -d 127.0.0.11/32 -j DOCKER_POSTROUTING
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:41053
-A DOCKER_OUTPUT -d 127.0.0.11/32 -p udp -m udp --dport 53 -j DNAT --to-destination 127.0.0.11:41053
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p tcp -m tcp --sport 41053 -j SNAT --to-source :53
-A DOCKER_POSTROUTING -s 127.0.0.11/32 -p udp -m udp --sport 41053 -j SNAT --to-source :53
COMMIT
`

// TestEmbeddedResolver: where Docker's NAT leads from 127.0.0.11 to another port, the proxy's lookups come there and
// back, and the server's own go where they are to go, if only 127.0.0.11 is captured.
func TestEmbeddedResolver(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		program := "iptables-nft-restore"
		if w == byLegacy {
			program = "iptables-legacy-restore"
		}
		netlab.RequireProgram(t, program)
		for _, mode := range []intercept.DNSMode{intercept.DNSAll, intercept.DNSResolvConf} {
			t.Run(string(mode), func(t *testing.T) {
				t.Parallel()
				lab := netlab.NewT(t, netlab.Options{})
				if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
					t.Fatal(err)
				}
				docker := exec.Command(program, "--noflush", "-w")
				var said bytes.Buffer
				docker.Stdin, docker.Stderr = bytes.NewBufferString(embedded), &said
				if err := lab.Pod.Start(docker, nil); err != nil {
					t.Fatal(err)
				}
				if err := docker.Wait(); err != nil {
					t.Fatalf("%v: %s", err, &said)
				}
				server := netip.MustParseAddrPort("127.0.0.11:53")
				c := intercept.Default()
				if c.DNS.Mode = mode; mode == intercept.DNSResolvConf {
					c.DNS.Servers = []netip.Addr{server.Addr()}
				}
				applyConfig(t, w.target(t, lab), c)
				root := &intercept.Owner{}
				listens := datagrams(t, lab.Pod, root, netip.MustParseAddrPort("127.0.0.11:41053"))
				go echo(listens, "docker")
				for _, port := range []uint16{0, 53, 40001} {
					resolver := datagrams(t, lab.Pod, proxy, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
					if got, err := exchange(resolver, server, "who"); err != nil || got != "docker:who" {
						t.Errorf("the proxy asks from %s: %q, %v", resolver.LocalAddr(), got, err)
					}
					resolver.Close()
				}
				want := intercept.RedirectedTo(15053)
				if mode == intercept.DNSResolvConf {
					want = intercept.Fate{}
				}
				expectFate(t, lab, netlab.Flow{Protocol: intercept.UDP, Dst: servers[0], Owner: root}, want)
			})
		}
	})
}

// TestResolverInPod: a resolver of the pod's own, such as systemd-resolved on 127.0.0.53, answers the proxy; the app's
// lookups to it are captured.
func TestResolverInPod(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab := netlab.NewT(t, netlab.Options{})
		if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
			t.Fatal(err)
		}
		server := netip.MustParseAddrPort("127.0.0.53:53")
		c := intercept.Default()
		c.DNS.Mode, c.DNS.Servers = intercept.DNSResolvConf, []netip.Addr{server.Addr()}
		applyConfig(t, w.target(t, lab), c)
		go echo(datagrams(t, lab.Pod, nobody, server), "resolved")
		for _, port := range []uint16{0, 53, 15053} {
			resolver := datagrams(t, lab.Pod, proxy, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port))
			if got, err := exchange(resolver, server, "who"); err != nil || got != "resolved:who" {
				t.Errorf("the proxy asks from %s: %q, %v", resolver.LocalAddr(), got, err)
			}
		}
		expectFate(t, lab, netlab.Flow{Protocol: intercept.UDP, Dst: server, Owner: app}, intercept.RedirectedTo(15053))
		expectFate(t, lab, netlab.Flow{Protocol: intercept.UDP, Dst: servers[0], Owner: nobody}, intercept.Fate{})
	})
}

// TestLongAnswers: answers of several kilobytes, in fragments, come to who asked: to the proxy from a server, and to
// the app from the resolver.
func TestLongAnswers(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab := netlab.NewT(t, netlab.Options{})
		c := capturing()["all"]
		c.Inbound.DropInvalid = true
		applyConfig(t, w.target(t, lab), c)
		long := string(bytes.Repeat([]byte("long"), 1000))
		for i, server := range servers {
			self := []string{"127.0.0.1", "::1"}[i]
			go echo(datagrams(t, lab.Pod, proxy, netip.AddrPortFrom(netip.MustParseAddr(self), 15053)), "resolver")
			client := netip.AddrPortFrom(pods[i].Addr(), 40000)
			upstream := connected(t, lab.Peer, nil, server, client)
			go echo(upstream, "server")
			for who, owner := range map[string]*intercept.Owner{"server": proxy, "resolver": app} {
				from := datagrams(t, lab.Pod, owner, client)
				got, err := exchange(from, server, long)
				if err != nil || got != who+":"+long {
					t.Errorf("%s, asked by user %d: %d bytes, %v", server, owner.UID, len(got), err)
				}
				from.Close()
			}
			upstream.Close()
		}
	})
}

// TestErrorsAboutLookups: where no server listens, who asks is told so at once: the proxy and an excluded user by the
// server's host, the app by its own. Drop-invalid lets these messages pass.
func TestErrorsAboutLookups(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab := netlab.NewT(t, netlab.Options{})
		runIn(t, lab.Peer, "nft", `
			add table inet silent
			add chain inet silent c { type filter hook prerouting priority -160; }
			add rule inet silent c udp dport 53 reject with icmpx type port-unreachable`, "-f", "-")
		for name, c := range capturing() {
			exempting(&c)
			c.Inbound.DropInvalid = true
			if name == "resolvconf" {
				c.DNS.Mode = intercept.DNSResolvConf
			}
			applyConfig(t, w.target(t, lab), c)
			for _, server := range servers {
				for _, owner := range []*intercept.Owner{app, proxy, excludedUser} {
					expectRejected(t, lab, netlab.Flow{Protocol: intercept.UDP, Dst: server, Owner: owner})
				}
			}
		}
	})
}

// TestErrorFromBehind: what a machine behind the pod says of an answer that comes too late goes to the resolver, and
// not on to the server, with the name in it (B10).
func TestErrorFromBehind(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab := netlab.NewT(t, netlab.Options{VM: true})
		c := capturing()["all"]
		c.VirtualInterfaces = []string{"br-vm"}
		applyConfig(t, w.target(t, lab), c)
		for i, server := range servers {
			bridge := netip.MustParseAddr([]string{"10.246.0.1", "fd00:246::1"}[i])
			behind := netip.MustParseAddrPort([]string{"10.246.0.5:40000", "[fd00:246::5]:40000"}[i])
			resolver := datagrams(t, lab.Pod, proxy, netip.AddrPortFrom(bridge, 15053))
			watch, err := lab.Pod.Watch()
			if err != nil {
				t.Fatal(err)
			}
			defer watch.Close()
			client := datagrams(t, lab.VM, nil, behind)
			if err := send(client, server, []byte("secret.test?")); err != nil {
				t.Fatal(err)
			}
			if err := resolver.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
				t.Fatal(err)
			}
			_, from, err := resolver.ReadFromUDPAddrPort(make([]byte, 100))
			if err != nil {
				t.Fatal(err)
			}
			client.Close()
			if err := send(resolver, from, []byte("ANSWER")); err != nil {
				t.Fatal(err)
			}
			said := func(p netlab.Seen) bool {
				return p.Protocol != intercept.UDP && bytes.Contains(p.Data, []byte("ANSWER"))
			}
			seen, err := watch.Until(func(p netlab.Seen) bool { return said(p) && !p.Sent && p.Interface == "br-vm" })
			if err != nil {
				t.Fatalf("nothing comes from behind: %v", err)
			}
			// What is sent next is seen after what the error has become.
			expectFate(t, lab, netlab.Flow{Protocol: intercept.TCP, Dst: server, Owner: proxy}, intercept.Fate{})
			more, err := watch.SoFar()
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range append(seen, more...) {
				if p.Sent && p.Interface == "eth0" && said(p) {
					t.Errorf("%s: the error leaves the pod: %s", server, p)
				}
			}
		}
	})
}

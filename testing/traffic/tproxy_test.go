//go:build linux

package traffic

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// transparently is the fate of what mode tproxy gives to the proxy.
var transparently = intercept.Fate{Action: intercept.Transparent, Ports: intercept.Port(15006)}

// pods are where clients call the pod.
var pods = []netip.AddrPort{netip.MustParseAddrPort("10.244.0.5:8080"), netip.MustParseAddrPort("[fd00:244::5]:8080")}

// clients are where a client of the pod's address can be.
func clients(pod netip.Addr) []netip.Addr {
	if pod.Is4() {
		return []netip.Addr{{}, netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("172.16.5.6"),
			netip.MustParseAddr("10.96.0.1")}
	}
	return []netip.Addr{{}, netip.MustParseAddr("2001:db8::9"), netip.MustParseAddr("2001:db8:7::1"),
		netip.MustParseAddr("fd00:96::1")}
}

// target is the pod by a way: mode tproxy takes routes beside the rules.
func (w way) target(t testing.TB, lab *netlab.Lab) dataplane.Pod {
	t.Helper()
	if w != byNFT {
		for _, program := range []string{"iptables", "ip6tables"} {
			netlab.RequireProgram(t, program+strings.TrimPrefix(string(w), "iptables")+"-restore")
		}
	}
	return dataplane.Pod{NetNS: lab.Pod.Path(), Backend: dataplane.Backend(w)}
}

// tproxyLab is a lab with a sidecar and mode tproxy.
func tproxyLab(
	t *testing.T, w way, s netlab.SidecarConfig, change ...func(*intercept.Config),
) (*netlab.Lab, dataplane.Pod) {
	t.Helper()
	lab := netlab.NewT(t, netlab.Options{})
	s.Transparent = true
	if _, err := lab.StartSidecar(s); err != nil {
		t.Fatal(err)
	}
	target := w.target(t, lab)
	applyConfig(t, target, tproxy(change...))
	return lab, target
}

// tproxy is the default configuration, changed, and in mode tproxy.
func tproxy(change ...func(*intercept.Config)) intercept.Config {
	c := intercept.Default()
	c.Inbound.Mode = intercept.InboundTProxy
	for _, f := range change {
		f(&c)
	}
	return c
}

func applyConfig(t *testing.T, target dataplane.Pod, c intercept.Config) dataplane.Result {
	t.Helper()
	got, err := target.Apply(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func inbound(pod netip.AddrPort, client netip.Addr) netlab.Flow {
	return netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP, Src: netip.AddrPortFrom(client, 0), Dst: pod}
}

// expectFate sends a flow.
func expectFate(t *testing.T, lab *netlab.Lab, f netlab.Flow, want intercept.Fate) netlab.Delivery {
	t.Helper()
	got, err := lab.Send(f)
	if err != nil || got.Fate != want {
		t.Errorf("%s: %s, %v; want %s", f, got, err, want)
	}
	return got
}

// TestTProxy: the proxy sees who calls and where, whoever it is, and itself
// when it calls its own pod. The app's calls to its own pod's address are the
// app's business.
func TestTProxy(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab, _ := tproxyLab(t, w, netlab.SidecarConfig{})
		for _, pod := range pods {
			for _, client := range clients(pod.Addr()) {
				f := inbound(pod, client)
				got := expectFate(t, lab, f, transparently)
				if got.Client != got.Source || client.IsValid() && got.Client.Addr() != client || got.Local != pod ||
					got.Original != pod {
					t.Errorf("%s, sent by %s: %s", f, got.Source, got)
				}
			}
			self := netlab.Flow{Protocol: intercept.TCP, Dst: pod, Owner: proxy}
			if got := expectFate(t, lab, self, transparently); got.Client != got.Source || got.Client.Addr() != pod.Addr() {
				t.Errorf("%s, sent by %s: %s", self, got.Source, got)
			}
			self.Owner = app
			if got := expectFate(t, lab, self, intercept.Fate{}); got.Role != netlab.RoleApp {
				t.Errorf("%s: %s", self, got)
			}
		}
	})
}

// TestTProxyForward: a proxy reaches its app from the passthrough source or
// from the client's own address, and is not called itself. Clients have
// several connections at a time, and one past the proxy.
func TestTProxyForward(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		for name, sidecar := range map[string]netlab.SidecarConfig{
			"passthrough":     {Forward: netlab.ForwardPassthrough},
			"original source": {Forward: netlab.ForwardOriginalSource, ForwardMark: 1337},
		} {
			t.Run(name, func(t *testing.T) {
				lab, target := tproxyLab(t, w, sidecar)
				var open []longLived
				dial := func(f netlab.Flow) netlab.Delivery {
					t.Helper()
					conn, got, err := lab.Dial(f)
					if err != nil || conn == nil {
						t.Fatalf("%s: %s, %v", f, got, err)
					}
					t.Cleanup(func() { conn.Close() })
					open = append(open, longLived{f.String(), conn})
					return got
				}
				for _, pod := range pods {
					for _, client := range clients(pod.Addr()) {
						straight := inbound(netip.AddrPortFrom(pod.Addr(), 15021), client)
						if got := dial(straight); got.Fate != (intercept.Fate{}) || got.Via.Role != "" || got.Client != got.Source {
							t.Errorf("%s, sent by %s: %s", straight, got.Source, got)
						}
						for range 2 {
							f := inbound(pod, client)
							got := dial(f)
							if got.Fate != transparently || got.Role != netlab.RoleApp || got.Local != pod || got.Via.Client != got.Source ||
								got.Via.Original != pod {
								t.Errorf("%s, sent by %s: %s", f, got.Source, got)
							}
							want := got.Source.Addr()
							if sidecar.Forward == netlab.ForwardPassthrough {
								want = intercept.Default().PassthroughSources[map[bool]int{true: 0, false: 1}[want.Is4()]]
							}
							if got.Client.Addr() != want || got.Client == got.Source {
								t.Errorf("%s: the app sees %s; want %s", f, got.Client, want)
							}
						}
					}
				}
				echo := func(when string) {
					t.Helper()
					for _, c := range open {
						c.echo(t, when)
					}
				}
				echo("with the others")
				applyConfig(t, target, tproxy(func(c *intercept.Config) {
					c.Inbound.ExcludePorts = append(c.Inbound.ExcludePorts, intercept.Port(8080))
				}))
				echo("after they are excluded")
			})
		}
	})
}

// TestTProxyEstablished: connections outlive what happens to the rules, those
// from before them, those of each mode, and those to ports that come to be
// excluded; by another backend, too.
func TestTProxyEstablished(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab := netlab.NewT(t, netlab.Options{})
		if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: true}); err != nil {
			t.Fatal(err)
		}
		target := w.target(t, lab)
		type connection struct {
			longLived
			redirected bool
		}
		var open []connection
		dial := func(when string, in, self intercept.Fate) {
			t.Helper()
			for _, pod := range pods {
				for f, want := range map[netlab.Flow]intercept.Fate{
					inbound(pod, clients(pod.Addr())[1]):                   in,
					{Protocol: intercept.TCP, Dst: pod, Owner: proxy}:      self,
					{Protocol: intercept.TCP, Dst: pod, Owner: app}:        {},
					inbound(netip.AddrPortFrom(pod.Addr(), 15021), noAddr): {},
				} {
					conn, got, err := lab.Dial(f)
					if err != nil || conn == nil || got.Fate != want {
						t.Fatalf("%s, %s: %s, %v; want %s", f, when, got, err, want)
					}
					t.Cleanup(func() { conn.Close() })
					open = append(open, connection{
						longLived{f.String() + ", from " + when, conn}, want.Action == intercept.Redirected})
				}
			}
		}
		then := func(what string, change func() error) {
			t.Helper()
			if err := change(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for _, c := range open {
				c.echo(t, what)
			}
		}
		to := func(target dataplane.Pod, c intercept.Config) func() error {
			return func() error { _, err := target.Apply(t.Context(), c); return err }
		}
		excluded := tproxy(func(c *intercept.Config) {
			c.Inbound.ExcludePorts = append(c.Inbound.ExcludePorts, intercept.PortRange{First: 8000, Last: 8999})
			c.Inbound.ExcludeSources = intercept.CIDRs{
				netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/32")}
			c.Inbound.DropInvalid = true
			c.DNS.Mode = intercept.DNSAll
		})
		off := intercept.Default()
		off.Inbound.Mode = intercept.InboundOff

		dial("before", intercept.Fate{}, intercept.Fate{})
		then("the first Apply, redirect", to(target, intercept.Default()))
		dial("redirect", intercept.RedirectedTo(15006), intercept.RedirectedTo(15006))
		then("tproxy", to(target, tproxy()))
		dial("tproxy", transparently, transparently)
		then("tproxy with exclusions", to(target, excluded))
		then("tproxy without", to(target, tproxy()))
		for _, other := range []way{byNFT, byXTNFT, byLegacy, w} {
			then("tproxy by "+string(other), to(other.target(t, lab), tproxy()))
		}
		dial("tproxy once more", transparently, transparently)
		then("redirect again", to(target, intercept.Default()))
		then("off", to(target, off))
		then("tproxy again", to(target, excluded))
		// Without rules the kernel translates no more: those redirected end. The
		// others are the sockets' own.
		open = slices.DeleteFunc(open, func(c connection) bool { return c.redirected })
		then("Remove", func() error { _, err := target.Remove(t.Context()); return err })
		then("at last", to(target, tproxy()))
		dial("at last", transparently, transparently)
	})
}

// TestTProxyDiverts: the packets of a connection that the proxy has are left to its socket. Who looks at the counters
// sees them, or that they are not counted.
func TestTProxyDiverts(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab, target := tproxyLab(t, w, netlab.SidecarConfig{})
		for _, pod := range pods {
			conn, got, err := lab.Dial(inbound(pod, noAddr))
			if err != nil || conn == nil || got.Fate != transparently {
				t.Fatalf("%s: %s, %v", pod, got, err)
			}
			t.Cleanup(func() { conn.Close() })
			counted := func(rule intercept.RuleID) (packets uint64, all bool) {
				status, err := target.Status(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range status.Counters {
					if c.Rule == rule {
						packets, all = packets+c.Packets, !c.Uncounted
					}
				}
				return packets, all
			}
			given, _ := counted("I7.deliver")
			left, counts := counted("I7.divert")
			const times = 20
			for range times {
				longLived{pod.String(), conn}.echo(t, "of an open connection")
			}
			if now, all := counted("I7.deliver"); now != given || !all {
				t.Errorf("%s: %d packets are given to the proxy, and each looks for its socket", pod, now-given)
			}
			if now, _ := counted("I7.divert"); counts != (w != byNFT) || counts && now-left < times {
				t.Errorf("%s: %d packets are left to the proxy's socket; counted: %t", pod, now-left, counts)
			}
		}
	})
}

var noAddr netip.Addr

// TestTProxyReplaceUnderLoad: clients connect from outside without a pause
// while the rules of mode tproxy are replaced a dozen times. No connection gets
// to the app, none waits, none is reset.
func TestTProxyReplaceUnderLoad(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab, target := tproxyLab(t, w, netlab.SidecarConfig{})
		const replacements, perReplacement = 12, 150
		var captured atomic.Int64
		var stop atomic.Bool
		var callers sync.WaitGroup
		for i := range 4 {
			pod := pods[i%2]
			f := inbound(pod, clients(pod.Addr())[i/2])
			f.Timeout = 30 * time.Second // a slow machine may stand still; that nothing waits is what retransmits say
			callers.Go(func() {
				for !stop.Load() && !t.Failed() {
					got, retransmits, err := connectOnce(lab, f)
					if err != nil || got.Fate != transparently || retransmits > 0 {
						t.Errorf("%s: %s, %d segments sent again, %v", f, got, retransmits, err)
					}
					captured.Add(1)
				}
			})
		}
		// Each replacement is made while the clients have work to do with it.
		for n := range replacements {
			for goal := captured.Load() + perReplacement; captured.Load() < goal && !t.Failed(); {
				<-time.After(time.Millisecond)
			}
			got, err := target.Apply(t.Context(), tproxy(func(c *intercept.Config) {
				for i := range 1 + n*20 {
					c.Inbound.ExcludePorts = append(c.Inbound.ExcludePorts, intercept.Port(uint16(20000+2*i)))
				}
				c.Inbound.DropInvalid = n%2 == 0
				c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(uint16(1000 + n))}
			}))
			if err != nil || got.Outcome != intercept.Replaced {
				t.Errorf("replacement %d: %+v, %v", n, got, err)
			}
		}
		stop.Store(true)
		callers.Wait()
		t.Logf("%d captured", captured.Load())
	})
}

// TestTProxyNobodyListens: without the proxy, connections fail and do not get
// to the app, by every backend alike. xtables' TPROXY drops what it finds no
// socket for, and nftables' goes on.
func TestTProxyNobodyListens(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		t.Parallel()
		lab := netlab.NewT(t, netlab.Options{})
		target := w.target(t, lab)
		for _, pod := range pods { // the app is there
			expectFate(t, lab, inbound(pod, noAddr), intercept.Fate{})
		}
		applyConfig(t, target, tproxy())
		var senders sync.WaitGroup
		for _, pod := range pods {
			f := inbound(pod, noAddr)
			f.Timeout = 300 * time.Millisecond
			senders.Go(func() { expectFate(t, lab, f, intercept.Fate{Action: intercept.Dropped}) })
			self := netlab.Flow{Protocol: intercept.TCP, Dst: pod, Owner: proxy, Timeout: f.Timeout}
			senders.Go(func() { expectFate(t, lab, self, intercept.Fate{Action: intercept.Dropped}) })
		}
		senders.Wait()
		for _, pod := range pods {
			expectFate(t, lab, netlab.Flow{Protocol: intercept.TCP, Dst: pod, Owner: app}, intercept.Fate{})
		}
		// As soon as it is there, connections come to it.
		if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: true}); err != nil {
			t.Fatal(err)
		}
		for _, pod := range pods {
			expectFate(t, lab, inbound(pod, noAddr), transparently)
		}
	})
}

// TestTProxySYNCookies: with SYN cookies the proxy's socket knows nothing of a
// connection until its third packet, and that has to be brought to it. If the
// second packet is lost the first comes again, and for the kernel, which has
// seen both, it then belongs to a connection. It has to come to the proxy all
// the same: the app may listen there, or not.
func TestTProxySYNCookies(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		t.Parallel()
		for _, lossy := range []bool{false, true} {
			for _, cookies := range []string{"1", "2"} {
				t.Run(fmt.Sprintf("cookies %s, lossy %t", cookies, lossy), func(t *testing.T) {
					t.Parallel()
					lab, _ := tproxyLab(t, w, netlab.SidecarConfig{})
					podSysctl(t, lab, "net/ipv4/tcp_syncookies", cookies)
					if lossy {
						runIn(t, lab.Peer, "nft", `table inet lossy {
							chain lose4 { limit rate 1/hour burst 1 packets drop; }
							chain lose6 { limit rate 1/hour burst 1 packets drop; }
							chain c {
								type filter hook prerouting priority -400
								meta l4proto != tcp accept
								tcp flags & (syn | ack) != syn | ack accept
								meta nfproto ipv4 goto lose4
								goto lose6
							}
						}`)
					}
					sent := netstat(t, lab, "SyncookiesSent")
					var senders sync.WaitGroup
					for _, pod := range pods {
						senders.Go(func() {
							got, retransmits, err := callFromPeer(lab, pod)
							if err != nil || got.Role != netlab.RoleInbound || got.Local != pod || lossy != (retransmits > 0) {
								t.Errorf("%s: %+v, %d segments sent again, %v", pod, got, retransmits, err)
							}
						})
					}
					senders.Wait()
					if got := netstat(t, lab, "SyncookiesSent") - sent; (got >= 2) != (cookies == "2") {
						t.Errorf("%d cookies were sent", got)
					}
				})
			}
		}
	})
}

// callFromPeer calls the pod where there may be no app: [netlab.Lab.Send] would
// start one.
func callFromPeer(lab *netlab.Lab, dst netip.AddrPort) (got netlab.Banner, retransmits uint32, err error) {
	domain := unix.AF_INET
	if dst.Addr().Is6() {
		domain = unix.AF_INET6
	}
	fd, err := lab.Peer.Socket(domain, unix.SOCK_STREAM, nil)
	if err != nil {
		return got, 0, err
	}
	file := os.NewFile(uintptr(fd), "client")
	defer file.Close()
	raw, err := file.SyscallConn()
	err = errors.Join(err, file.SetDeadline(time.Now().Add(10*time.Second)),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	if err != nil {
		return got, 0, err
	}
	var connErr error
	err = raw.Write(func(fd uintptr) bool {
		connErr = unix.Connect(int(fd), netlab.Sockaddr(dst))
		return connErr != unix.EINPROGRESS && connErr != unix.EALREADY
	})
	if err := errors.Join(err, os.NewSyscallError("connect", connErr)); err != nil {
		return got, 0, err
	}
	if err := write(file, []byte("whoami\n")); err != nil {
		return got, 0, err
	}
	line, err := bufio.NewReader(file).ReadBytes('\n')
	if err != nil {
		return got, 0, err
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
	if err != nil {
		return got, 0, err
	}
	return got, info.Total_retrans, json.Unmarshal(line, &got)
}

// TestTProxyStale: client and proxy have forgotten a connection, and the kernel
// has not. When the client calls from the same port again it comes to the
// proxy, not to the app, although for the kernel nothing new begins.
func TestTProxyStale(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab, target := tproxyLab(t, w, netlab.SidecarConfig{})
		if _, err := target.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The app is there, the proxy comes and goes.
		var flows []netlab.Flow
		for _, pod := range pods {
			f := inbound(pod, clients(pod.Addr())[1])
			expectFate(t, lab, f, intercept.Fate{})
			f.Src = netip.AddrPortFrom(f.Src.Addr(), 40001)
			flows = append(flows, f)
		}
		applyConfig(t, target, tproxy(func(c *intercept.Config) { c.Inbound.Port = intercept.Port(15007) }))
		sidecar, err := lab.StartSidecar(netlab.SidecarConfig{
			Transparent: true, Outbound: intercept.Port(15002), Inbound: intercept.Port(15007), DNSPort: 15054})
		if err != nil {
			t.Fatal(err)
		}
		var conns []net.Conn
		for _, f := range flows {
			conn, got, err := lab.Dial(f)
			if err != nil || conn == nil || got.Port != 15007 {
				t.Fatalf("%s: %s, %v", f, got, err)
			}
			conns = append(conns, conn)
		}
		// Conntrack, which looks at -200, hears of no end.
		runIn(t, lab.Pod, "nft", `table inet silent { chain c {
			type filter hook output priority -400; tcp flags & (fin | rst) != 0 drop
		}; }`)
		for _, conn := range conns {
			if err := errors.Join(control(conn, func(fd int) error {
				return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 1) // to close without a word
			}), conn.Close()); err != nil {
				t.Fatal(err)
			}
		}
		sidecar.Close()
		runIn(t, lab.Pod, "nft", "delete table inet silent")
		if n := established(t, lab, 40001); n != len(flows) {
			t.Fatalf("the kernel remembers %d connections", n)
		}
		for _, f := range flows {
			f.Timeout = 200 * time.Millisecond
			expectFate(t, lab, f, intercept.Fate{Action: intercept.Dropped})
		}
		if _, err := lab.StartSidecar(netlab.SidecarConfig{
			Transparent: true, Outbound: intercept.Port(15002), Inbound: intercept.Port(15007), DNSPort: 15054}); err != nil {
			t.Fatal(err)
		}
		for _, f := range flows {
			expectFate(t, lab, f, intercept.Fate{Action: intercept.Transparent, Ports: intercept.Port(15007)})
		}
	})
}

// established returns how many established connections from a port conntrack
// knows in the pod.
func established(t *testing.T, lab *netlab.Lab, port uint16) (n int) {
	t.Helper()
	const tcpEstablished = 3 // TCP_CONNTRACK_ESTABLISHED
	err := lab.Pod.Do(func() error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return err
			}
			for _, f := range flows {
				tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
				if ok && f.Forward.SrcPort == port && tcp.State == tcpEstablished {
					n++
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// control runs f on a connection's socket.
func control(conn net.Conn, f func(fd int) error) error {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

// runIn runs a program in a namespace, and returns what it prints. Without
// arguments it is nft, which reads the input.
func runIn(t *testing.T, ns *netlab.Namespace, program, input string, args ...string) string {
	t.Helper()
	netlab.RequireProgram(t, program)
	if len(args) == 0 {
		args = []string{"-f", "-"}
	}
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(input)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := ns.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &out)
	}
	return out.String()
}

func podSysctl(t *testing.T, lab *netlab.Lab, name, value string) {
	t.Helper()
	if err := lab.Pod.Do(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0) }); err != nil {
		t.Fatal(err)
	}
}

// netstat returns one of the pod's counters of /proc/net/netstat.
func netstat(t *testing.T, lab *netlab.Lab, name string) uint64 {
	t.Helper()
	var text []byte
	if err := lab.Pod.Do(func() (err error) {
		text, err = os.ReadFile("/proc/thread-self/net/netstat")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	names, values, _ := strings.Cut(string(text), "\n")
	values, _, _ = strings.Cut(values, "\n")
	list := strings.Fields(values)
	for i, n := range strings.Fields(names) {
		if n == name && i < len(list) {
			v, err := strconv.ParseUint(list[i], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("there is no counter %s", name)
	return 0
}

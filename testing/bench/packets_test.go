//go:build linux

package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// What a packet of an established connection pays. Each benchmark sends a byte
// to and fro under several sets of rules in turn. A metric x-NAME is the median
// of the ratios of a round to the same round under the first set.

// peerAndServer are where a pod's packets go: the other end of its link, and a
// host behind it.
func peerAndServer(pod netip.Addr) (peer, server netip.Addr) {
	if pod.Is6() {
		return netip.MustParseAddr("fd00:244::1"), netip.MustParseAddr("2001:db8::10")
	}
	return netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr("203.0.113.10")
}

const app, proxy = 1000, 1337

// kinds are connections of the pod, by what the default rules make of them.
func kinds(pod netip.Addr) map[string]func(*testing.B, *netlab.Lab) pair {
	peer, server := peerAndServer(pod)
	return map[string]func(*testing.B, *netlab.Lab) pair{
		"captured": func(b *testing.B, l *netlab.Lab) pair {
			return tcpPairOf(b, side{l.Pod, app}, netip.AddrPortFrom(server, 80), side{l.Pod, proxy}, 15001)
		},
		"proxy": func(b *testing.B, l *netlab.Lab) pair {
			return tcpPairOf(b, side{l.Pod, proxy}, netip.AddrPortFrom(server, 9997), side{l.Peer, app}, 9997)
		},
		"excluded": func(b *testing.B, l *netlab.Lab) pair {
			return tcpPairOf(b, side{l.Pod, app}, netip.AddrPortFrom(peer, 9997), side{l.Peer, app}, 9997)
		},
		"inbound": func(b *testing.B, l *netlab.Lab) pair {
			return tcpPairOf(b, side{l.Peer, app}, netip.AddrPortFrom(pod, 8080), side{l.Pod, proxy}, 15006)
		},
		"udp": func(b *testing.B, l *netlab.Lab) pair { return udpPair(b, l, pod) },
	}
}

// under makes a pod with rules, and a connection of a kind.
func under(b *testing.B, kind func(*testing.B, *netlab.Lab) pair, rules func(*netlab.Lab) error) pair {
	b.Helper()
	lab := netlab.NewT(b, netlab.Options{})
	if err := rules(lab); err != nil {
		b.Fatal(err)
	}
	listensItself(b, lab.Peer)
	return kind(b, lab)
}

// ours applies a configuration that leaves the peer alone.
func ours(
	b *testing.B, backend dataplane.Backend, pod netip.Addr, change func(*intercept.Config),
) func(*netlab.Lab) error {
	peer, _ := peerAndServer(pod)
	c := intercept.Default()
	c.Outbound.ExcludeCIDRs = intercept.CIDRs{netip.PrefixFrom(peer, peer.BitLen())}
	change(&c)
	return func(l *netlab.Lab) error {
		_, err := dataplane.Pod{NetNS: l.Pod.Path(), Backend: backend}.Apply(b.Context(), c)
		return err
	}
}

// beside are rules, and empty chains of nftables beside them: the least that
// chains at these hooks can cost.
func beside(
	rules func(*netlab.Lab) error, priority *nftables.ChainPriority, hooks ...*nftables.ChainHook,
) func(*netlab.Lab) error {
	return func(l *netlab.Lab) error {
		if err := rules(l); err != nil {
			return err
		}
		c, err := nftables.New(nftables.WithNetNSFd(l.Pod.FD()))
		if err != nil {
			return err
		}
		t := c.AddTable(&nftables.Table{Name: "empty", Family: nftables.TableFamilyINet})
		for i, hook := range hooks {
			c.AddChain(&nftables.Chain{Name: fmt.Sprint("chain", i), Table: t, Type: nftables.ChainTypeFilter,
				Hooknum: hook, Priority: priority})
		}
		return c.Flush()
	}
}

// BenchmarkBackstop compares no backstop with one for what opens connections
// (x-syn), with all of it (x-on), and with empty chains at its hooks (x-empty).
func BenchmarkBackstop(b *testing.B) {
	netlab.Require(b)
	eachBackend(b, func(b *testing.B, backend dataplane.Backend, pod netip.Addr) {
		for _, kind := range []string{"captured", "proxy", "excluded", "inbound", "udp"} {
			b.Run(kind, func(b *testing.B) {
				connects := kinds(pod)[kind]
				with := func(mode intercept.Backstop) func(*netlab.Lab) error {
					return ours(b, backend, pod, func(c *intercept.Config) { c.Backstop = mode })
				}
				off := with(intercept.BackstopOff)
				ratios := pingPong(b, []pair{
					under(b, connects, off),
					under(b, connects, with(intercept.BackstopSyn)),
					under(b, connects, with(intercept.BackstopOn)),
					under(b, connects, beside(off, nftables.ChainPriorityFilter, nftables.ChainHookOutput, nftables.ChainHookInput)),
				})
				b.ReportMetric(ratios[1], "x-syn")
				b.ReportMetric(ratios[2], "x-on")
				b.ReportMetric(ratios[3], "x-empty")
			})
		}
	})
}

// BenchmarkBesideDNS compares what is no name lookup, while DNS is not captured,
// with the same while it is (x-dns), and with an empty chain where the zones are
// chosen (x-empty).
func BenchmarkBesideDNS(b *testing.B) {
	netlab.Require(b)
	eachBackend(b, func(b *testing.B, backend dataplane.Backend, pod netip.Addr) {
		for _, kind := range []string{"udp", "captured", "proxy", "excluded", "inbound"} {
			b.Run(kind, func(b *testing.B) {
				connects := kinds(pod)[kind]
				off := ours(b, backend, pod, func(*intercept.Config) {})
				all := ours(b, backend, pod, func(c *intercept.Config) { c.DNS.Mode = intercept.DNSAll })
				ratios := pingPong(b, []pair{
					under(b, connects, off),
					under(b, connects, all),
					under(b, connects, beside(off, nftables.ChainPriorityRaw, nftables.ChainHookOutput)),
				})
				b.ReportMetric(ratios[1], "x-dns")
				b.ReportMetric(ratios[2], "x-empty")
			})
		}
	})
}

// BenchmarkTProxy compares rules that do in mode tproxy what Istio documents of
// its own, for nftables, with ours: with no port ranges excluded (x-0), with 100
// (x-100) and with 1,000 (x-1000), without a backstop (x-off), and in mode
// redirect (x-redirect).
func BenchmarkTProxy(b *testing.B) {
	netlab.Require(b)
	netlab.RequireProgram(b, "nft")
	eachBackend(b, func(b *testing.B, backend dataplane.Backend, pod netip.Addr) {
		inbound := kinds(pod)["inbound"]
		excluding := func(n int) func(*netlab.Lab) error {
			return ours(b, backend, pod, func(c *intercept.Config) {
				c.Inbound.Mode = intercept.InboundTProxy
				for i := range n { // with gaps, so that they do not merge
					c.Inbound.ExcludePorts = append(c.Inbound.ExcludePorts,
						intercept.PortRange{First: uint16(20000 + 3*i), Last: uint16(20001 + 3*i)})
				}
			})
		}
		off := ours(b, backend, pod, func(c *intercept.Config) {
			c.Inbound.Mode, c.Backstop = intercept.InboundTProxy, intercept.BackstopOff
		})
		ratios := pingPong(b, []pair{
			under(b, inbound, likeIstio), under(b, inbound, excluding(0)), under(b, inbound, excluding(100)),
			under(b, inbound, excluding(1000)), under(b, inbound, off),
			under(b, inbound, ours(b, backend, pod, func(*intercept.Config) {})),
		})
		for i, name := range []string{"x-0", "x-100", "x-1000", "x-off", "x-redirect"} {
			b.ReportMetric(ratios[i+1], name)
		}
	})
}

// likeIstio loads rules for mode TPROXY in the order in which packets meet those
// that Istio documents, with its marks and its routes.
func likeIstio(l *netlab.Lab) error {
	const rules = `table inet mangle {
	chain divert {
		counter meta mark set 1337
		counter accept
	}
	chain deliver {
		meta l4proto tcp ip daddr != 127.0.0.1 tproxy ip to :15006 meta mark set 1337 counter accept
		meta l4proto tcp ip6 daddr != ::1 tproxy ip6 to :15006 meta mark set 1337 counter accept
	}
	chain inbound {
		meta l4proto tcp meta mark 1337 counter return
		iifname lo meta l4proto tcp ip saddr 127.0.0.6 counter return
		iifname lo meta l4proto tcp ip6 saddr ::6 counter return
		iifname lo meta l4proto tcp meta mark != 1338 counter return
		meta l4proto tcp tcp dport 15090 counter return
		meta l4proto tcp tcp dport 15021 counter return
		meta l4proto tcp tcp dport 15020 counter return
		meta l4proto tcp ct state related,established counter jump divert
		meta l4proto tcp counter jump deliver
	}
	chain prerouting {
		type filter hook prerouting priority -150
		meta l4proto tcp counter jump inbound
		meta l4proto tcp meta mark 1337 counter ct mark set meta mark
	}
	chain output {
		type route hook output priority -150
		oifname lo meta l4proto tcp meta mark 1337 counter return
		oifname lo meta l4proto tcp ip daddr != 127.0.0.1 meta skuid 1337 counter meta mark set 1338
		oifname lo meta l4proto tcp ip6 daddr != ::1 meta skuid 1337 counter meta mark set 1338
		oifname lo meta l4proto tcp ip daddr != 127.0.0.1 meta skgid 1337 counter meta mark set 1338
		oifname lo meta l4proto tcp ip6 daddr != ::1 meta skgid 1337 counter meta mark set 1338
		meta l4proto tcp ct mark 1337 counter meta mark set ct mark
	}
}
table inet nat {
	chain output {
		type nat hook output priority -100
		meta skuid 1337 counter return
		meta l4proto tcp counter redirect to :15001
	}
}
`
	load := exec.Command("nft", "-f", "-")
	load.Stdin = strings.NewReader(rules)
	commands := []*exec.Cmd{load}
	for _, family := range []string{"-4", "-6"} {
		commands = append(commands,
			exec.Command("ip", family, "rule", "add", "fwmark", "1337", "lookup", "133"),
			exec.Command("ip", family, "route", "add", "local", "default", "dev", "lo", "table", "133"))
	}
	for _, cmd := range commands {
		var said strings.Builder
		cmd.Stderr = &said
		if err := errors.Join(l.Pod.Start(cmd, nil), cmd.Wait()); err != nil {
			return fmt.Errorf("%s: %w: %s", cmd, err, &said)
		}
	}
	return nil
}

// pair is the two ends of a connection, as file descriptors. They block.
type pair [2]int

// pingPong sends bytes to and fro on each of the pairs in turn, and returns for
// each the median of its ratios to the first one in the same round. Both ends
// are served by one thread, of one processor: what one sends has arrived at the
// other when it is sent, so that nobody waits to be woken, and what is measured
// is the packets' way. A round is short, so that what else the machine does is
// the same for all of it, and of the rounds the slower half does not count.
func pingPong(b *testing.B, pairs []pair) (ratios []float64) {
	b.Helper()
	const batch = 50
	var rounds [][]time.Duration
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer onOneProcessor(b)()
	buf := []byte{0}
	for round := 0; b.Loop(); round++ {
		took := make([]time.Duration, len(pairs))
		for i := range pairs {
			i = (i + round) % len(pairs) // each is first as often
			p := pairs[i]
			start := time.Now()
			for range batch {
				for _, ends := range []pair{p, {p[1], p[0]}} {
					for _, err := range []error{
						uninterrupted(func() error { _, err := unix.Write(ends[0], buf); return err }),
						uninterrupted(func() error { _, err := unix.Read(ends[1], buf); return err }),
					} {
						if err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			took[i] = time.Since(start) / batch
		}
		rounds = append(rounds, took)
	}
	total := func(took []time.Duration) (sum time.Duration) {
		for _, t := range took {
			sum += t
		}
		return sum
	}
	sort.Slice(rounds, func(i, j int) bool { return total(rounds[i]) < total(rounds[j]) })
	rounds = rounds[:(len(rounds)+1)/2]
	var first []time.Duration
	for i := range pairs {
		var of []float64
		for _, took := range rounds {
			of = append(of, float64(took[i])/float64(took[0]))
		}
		slices.Sort(of)
		ratios = append(ratios, of[len(of)/2])
	}
	for _, took := range rounds {
		first = append(first, took[0])
	}
	b.ReportMetric(float64(median(first).Nanoseconds()), "ns/roundtrip")
	return ratios
}

// onOneProcessor keeps this thread on the last processor that it may use, for the first has the most interrupts.
func onOneProcessor(b *testing.B) (restore func()) {
	b.Helper()
	var before, one unix.CPUSet
	err := unix.SchedGetaffinity(0, &before)
	if err == nil {
		last := 0
		for cpu := range 8 * int(unsafe.Sizeof(before)) {
			if before.IsSet(cpu) {
				last = cpu
			}
		}
		one.Set(last)
		err = unix.SchedSetaffinity(0, &one)
	}
	if err != nil {
		b.Fatal(err)
	}
	return func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			b.Error(err)
		}
	}
}

// side is where one end of a connection is, and whose.
type side struct {
	in *netlab.Namespace
	id uint32 // user and group
}

// tcpPairOf connects one side to an address, and takes the connection at a
// port of the other. The socket there is transparent.
func tcpPairOf(b *testing.B, from side, dst netip.AddrPort, to side, port uint16) pair {
	b.Helper()
	domain, level, transparent, any := unix.AF_INET, unix.SOL_IP, unix.IP_TRANSPARENT, netip.IPv4Unspecified()
	if dst.Addr().Is6() {
		domain, level, transparent, any = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, netip.IPv6Unspecified()
	}
	listener, p0 := socket(b, to, domain, unix.SOCK_STREAM), socket(b, from, domain, unix.SOCK_STREAM)
	for _, err := range []error{
		unix.SetsockoptInt(listener, level, transparent, 1),
		unix.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(listener, netlab.Sockaddr(netip.AddrPortFrom(any, port))),
		unix.Listen(listener, 1),
		uninterrupted(func() error { return unix.Connect(p0, netlab.Sockaddr(dst)) }),
	} {
		if err != nil {
			b.Fatal(err)
		}
	}
	accepted := -1
	err := netlab.As(intercept.Owner{UID: to.id, GID: to.id}, func() error {
		return uninterrupted(func() (err error) {
			accepted, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
			return err
		})
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(accepted) })
	for _, fd := range []int{p0, accepted} {
		if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1); err != nil {
			b.Fatal(err)
		}
	}
	return pair{p0, accepted}
}

// uninterrupted makes a system call again that a signal of Go's runtime has
// interrupted. The kernel does so itself, but not for sockets with a time-out
// (signal(7)).
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// udpPair connects the pod with the peer, on a port that is nobody's.
func udpPair(b *testing.B, lab *netlab.Lab, pod netip.Addr) pair {
	b.Helper()
	domain, peer := unix.AF_INET, netip.MustParseAddr("10.244.0.1")
	if pod.Is6() {
		domain, peer = unix.AF_INET6, netip.MustParseAddr("fd00:244::1")
	}
	p := pair{socket(b, side{lab.Pod, 1000}, domain, unix.SOCK_DGRAM),
		socket(b, side{lab.Peer, 1000}, domain, unix.SOCK_DGRAM)}
	ends := [2]unix.Sockaddr{netlab.Sockaddr(netip.AddrPortFrom(pod, 9998)), netlab.Sockaddr(netip.AddrPortFrom(peer, 9999))}
	for i := range p {
		if err := errors.Join(unix.Bind(p[i], ends[i]), unix.Connect(p[i], ends[1-i])); err != nil {
			b.Fatal(err)
		}
	}
	return p
}

// socket opens a socket that blocks, but not for ever.
func socket(b *testing.B, s side, domain, typ int) int {
	b.Helper()
	fd, err := s.in.Socket(domain, typ, &intercept.Owner{UID: s.id, GID: s.id})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(fd) })
	timeout := unix.Timeval{Sec: 5}
	err = errors.Join(unix.SetNonblock(fd, false),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout))
	if err != nil {
		b.Fatal(err)
	}
	return fd
}

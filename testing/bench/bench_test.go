//go:build linux

// Package bench measures what people wait for: a whole run of mesh-init, and
// a new connection. Its figures are ratios of things measured in turn in one
// run, since absolute times drift.
package bench

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

const hello = `package main

import "fmt"

func main() { fmt.Println("hello, world") }
`

// programs builds mesh-init as it ships and a hello world, in dir.
func programs(b *testing.B, dir string) {
	b.Helper()
	for _, name := range []string{"mesh-init", "hello"} {
		linked := filepath.Join(dir, name+".linked")
		if name == "hello" {
			buildHello(b, linked)
		} else if err := program.Build(linked, "cmd/"+name); err != nil {
			b.Fatal(err)
		}
		// It is written as whoever unpacks an image does: the page cache then holds it in larger pieces than what the
		// linker wrote, and it starts faster.
		text, err := os.ReadFile(linked)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o755)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func buildHello(tb testing.TB, output string) {
	tb.Helper()
	source := output + ".go"
	if err := os.WriteFile(source, []byte(hello), 0o600); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", output, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("%s: %v\n%s", cmd, err, out)
	}
}

// BenchmarkProcess runs mesh-init and a Go hello world in turn, from start to
// exit. The metric x-hello is the ratio of the medians.
func BenchmarkProcess(b *testing.B) {
	netlab.Require(b)
	dir := b.TempDir()
	programs(b, dir)
	many := filepath.Join(dir, "many.yaml")
	if err := os.WriteFile(many, []byte("outbound: {excludeCIDRs: ["+cidrText(5000)+"]}\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	for _, bb := range []struct {
		name   string
		before []string // a run that comes before in the same namespace
		args   []string
	}{
		{"version", nil, []string{"version"}},
		{"apply", nil, []string{"apply"}},
		{"apply-again", []string{"apply"}, []string{"apply"}},
		{"remove", []string{"apply"}, []string{"remove"}},
		{"explain", nil, []string{"explain", "--dst", "203.0.113.10:80"}},
		{"render", nil, []string{"render"}},
		{"doctor", nil, []string{"doctor"}},
		{"apply-5000-cidrs", nil, []string{"apply", "--config", many}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			var ours, theirs []time.Duration
			for b.Loop() {
				ns, err := netlab.NewNamespace()
				if err != nil {
					b.Fatal(err)
				}
				if bb.before != nil {
					process(b, ns, filepath.Join(dir, "mesh-init"), bb.before...)
				}
				ours = append(ours, process(b, ns, filepath.Join(dir, "mesh-init"), bb.args...))
				theirs = append(theirs, process(b, ns, filepath.Join(dir, "hello")))
				if err := ns.Close(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(median(ours))/float64(time.Millisecond), "ms")
			b.ReportMetric(float64(median(ours))/float64(median(theirs)), "x-hello")
		})
	}
}

// BenchmarkAtOnce runs mesh-init in many new namespaces at once, and as many hello worlds. The metric of-hello is the
// part of their rate that it reaches.
func BenchmarkAtOnce(b *testing.B) {
	netlab.Require(b)
	dir := b.TempDir()
	programs(b, dir)
	for _, n := range []int{1, 2, 4, 16, 64, 250} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			var took [2]time.Duration
			for b.Loop() {
				all := make([]*netlab.Namespace, n)
				for i := range all {
					ns, err := netlab.NewNamespace()
					if err != nil {
						b.Fatal(err)
					}
					all[i] = ns
				}
				for i, args := range [][]string{{"mesh-init", "apply"}, {"hello"}} {
					start := time.Now()
					var running []*exec.Cmd
					for _, ns := range all {
						cmd := exec.Command(filepath.Join(dir, args[0]), args[1:]...)
						if err := ns.Start(cmd, nil); err != nil {
							b.Fatal(err)
						}
						running = append(running, cmd)
					}
					for _, cmd := range running {
						if err := cmd.Wait(); err != nil {
							b.Fatalf("%s: %v", cmd, err)
						}
					}
					took[i] += time.Since(start)
				}
				for _, ns := range all {
					if err := ns.Close(); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(took[0].Microseconds())/1000/float64(b.N*n), "ms/pod")
			b.ReportMetric(float64(took[1])/float64(took[0]), "of-hello")
		})
	}
}

func process(b *testing.B, ns *netlab.Namespace, name string, args ...string) time.Duration {
	b.Helper()
	return timed(b, ns, exec.Command(name, args...))
}

func timed(b *testing.B, ns *netlab.Namespace, cmd *exec.Cmd) time.Duration {
	b.Helper()
	start := time.Now()
	if err := ns.Start(cmd, nil); err != nil {
		b.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		b.Fatalf("%s: %v", cmd, err)
	}
	return time.Since(start)
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// BenchmarkIPTables runs mesh-init with each variant of iptables.
//
// An apply is the first in its namespace. The metric x-restore is the ratio of
// the medians to two bare runs, of iptables-restore and of ip6tables-restore,
// with the same rules in another new namespace.
//
// An apply-again changes nothing. With 1,000 networks excluded, the metric
// x-default is the ratio of the medians to that without them.
func BenchmarkIPTables(b *testing.B) {
	netlab.Require(b)
	dir := b.TempDir()
	meshInit, many := filepath.Join(dir, "mesh-init"), filepath.Join(dir, "many.yaml")
	programs(b, dir)
	if err := os.WriteFile(many, []byte("outbound: {excludeCIDRs: ["+cidrText(1000)+"]}\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	rs, err := intercept.Compile(intercept.Default())
	if err != nil {
		b.Fatal(err)
	}
	for _, v := range []iptables.Variant{iptables.Legacy, iptables.NFT} {
		netlab.RequireProgram(b, "iptables-"+string(v)+"-restore")
		inputs, err := iptables.Render(rs, iptables.Options{Variant: v})
		if err != nil {
			b.Fatal(err)
		}
		var programs []string // each has a file of its name for an input
		for _, in := range inputs {
			name := strings.Replace(in.Program(), "-", "-"+string(v)+"-", 1)
			if err := os.WriteFile(filepath.Join(dir, name), []byte(in.Text), 0o644); err != nil {
				b.Fatal(err)
			}
			programs = append(programs, name)
		}
		bare := func(ns *netlab.Namespace) (took time.Duration) {
			for _, name := range programs {
				input, err := os.Open(filepath.Join(dir, name))
				if err != nil {
					b.Fatal(err)
				}
				cmd := exec.Command(name, "--noflush")
				cmd.Stdin = input
				took += timed(b, ns, cmd)
				input.Close()
			}
			return took
		}
		apply := func(ns *netlab.Namespace, args ...string) time.Duration {
			return process(b, ns, meshInit, append([]string{"apply", "--backend", "iptables-" + string(v)}, args...)...)
		}
		b.Run("apply/"+string(v), func(b *testing.B) {
			compare(b, "x-restore", func(ns *netlab.Namespace) time.Duration { return apply(ns) }, bare)
		})
		b.Run("apply-again-1000-cidrs/"+string(v), func(b *testing.B) {
			again := func(args ...string) func(*netlab.Namespace) time.Duration {
				return func(ns *netlab.Namespace) time.Duration {
					apply(ns, args...)
					return apply(ns, args...)
				}
			}
			compare(b, "x-default", again("--config", many), again())
		})
	}
}

// compare measures two ways in turn, each time in new namespaces. The metric is
// the ratio of the medians.
func compare(b *testing.B, metric string, one, other func(*netlab.Namespace) time.Duration) {
	b.Helper()
	var took [2][]time.Duration
	for b.Loop() {
		for i, measure := range []func(*netlab.Namespace) time.Duration{one, other} {
			ns, err := netlab.NewNamespace()
			if err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], measure(ns))
			if err := ns.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(median(took[0]))/float64(time.Millisecond), "ms")
	b.ReportMetric(float64(median(took[0]))/float64(median(took[1])), metric)
}

// cidr returns networks of both families that do not merge.
func cidr(i int) [2]string {
	return [2]string{fmt.Sprintf("10.%d.%d.0/25", i/250, i%250), fmt.Sprintf("2001:db8:%x::/49", i)}
}

func cidrText(n int) (s string) {
	for i := range n / 2 {
		c := cidr(i)
		s += fmt.Sprintf("%q,%q,", c[0], c[1])
	}
	return s
}

// BenchmarkNewConnection connects through the redirect, by each backend under
// default rules with more and more exclusions and, in turn, under a single
// redirect rule. The metric x-bare is the ratio of the medians of connect(2).
func BenchmarkNewConnection(b *testing.B) {
	netlab.Require(b)
	eachBackend(b, func(b *testing.B, backend dataplane.Backend, pod netip.Addr) {
		dst := netip.MustParseAddrPort("203.0.113.10:80")
		if pod.Is6() {
			dst = netip.MustParseAddrPort("[2001:db8::10]:80")
		}
		bare := labWith(b, func(l *netlab.Lab) error { return bareRedirect(l, 15001) })
		for _, n := range []int{0, 100, 1000, 5000} {
			b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
				lab := labWith(b, func(l *netlab.Lab) error {
					c := intercept.Default()
					for i := range n {
						c.Outbound.ExcludeCIDRs = append(c.Outbound.ExcludeCIDRs,
							netip.MustParsePrefix(cidr(i)[0]), netip.MustParsePrefix(cidr(i)[1]))
					}
					_, err := dataplane.Pod{NetNS: l.Pod.Path(), Backend: backend}.Apply(b.Context(), c)
					return err
				})
				var ours, theirs []time.Duration
				for b.Loop() {
					ours = append(ours, connect(b, lab, dst))
					theirs = append(theirs, connect(b, bare, dst))
				}
				b.ReportMetric(float64(median(ours).Nanoseconds()), "ns/connect")
				b.ReportMetric(float64(median(ours))/float64(median(theirs)), "x-bare")
			})
		}
	})
}

func labWith(b *testing.B, rules func(*netlab.Lab) error) *netlab.Lab {
	b.Helper()
	lab := netlab.NewT(b, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		b.Fatal(err)
	}
	if err := rules(lab); err != nil {
		b.Fatal(err)
	}
	return lab
}

// bareRedirect is the least there can be: one rule, that redirects TCP.
func bareRedirect(l *netlab.Lab, port uint16) error {
	c, err := nftables.New(nftables.WithNetNSFd(l.Pod.FD()))
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Name: "bare", Family: nftables.TableFamilyINet})
	chain := c.AddChain(&nftables.Chain{Name: "output", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest})
	c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1, Flags: expr.NF_NAT_RANGE_PROTO_SPECIFIED},
	}})
	return c.Flush()
}

// connect returns the time of connect(2) alone. It ends the connection by a
// reset, so that nothing of it stays behind.
func connect(b *testing.B, lab *netlab.Lab, dst netip.AddrPort) time.Duration {
	b.Helper()
	domain, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(dst.Port())})
	if dst.Addr().Is4() {
		sa.(*unix.SockaddrInet4).Addr = dst.Addr().As4()
	} else {
		domain, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(dst.Port()), Addr: dst.Addr().As16()}
	}
	fd, err := lab.Pod.Socket(domain, unix.SOCK_STREAM, &intercept.Owner{UID: 1000, GID: 1000})
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetNonblock(fd, false); err != nil {
		b.Fatal(err)
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	err = unix.Connect(fd, sa)
	took := time.Since(start)
	if err != nil {
		b.Fatal(err)
	}
	return took
}

// eachBackend runs a benchmark by each backend for each address of the pod.
func eachBackend(b *testing.B, bench func(*testing.B, dataplane.Backend, netip.Addr)) {
	b.Helper()
	for _, backend := range []dataplane.Backend{
		dataplane.BackendNFT, dataplane.BackendIPTablesNFT, dataplane.BackendIPTablesLegacy} {
		for _, pod := range []string{"10.244.0.5", "fd00:244::5"} {
			pod := netip.MustParseAddr(pod)
			b.Run(fmt.Sprintf("%s/%s", backend, intercept.FamilyOf(pod)), func(b *testing.B) {
				if backend != dataplane.BackendNFT {
					netlab.RequireProgram(b, string(backend)+"-restore")
				}
				bench(b, backend, pod)
			})
		}
	}
}

//go:build linux

package traffic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// The second look changes no traffic about which conntrack is right: what goes
// without it goes with it, and none of its rules that refuse counts anything.

// eachBackstop runs a test for every way, with a second look and without one.
func eachBackstop(t *testing.T, test func(*testing.T, way, intercept.Backstop)) {
	each(t, func(t *testing.T, w way) {
		for _, b := range []intercept.Backstop{intercept.BackstopOn, intercept.BackstopOff} {
			t.Run(string(b), func(t *testing.T) {
				t.Parallel()
				test(t, w, b)
			})
		}
	})
}

// refusals is what the rules of the backstop that refuse have counted, by ID.
func refusals(t *testing.T, target dataplane.Pod, c intercept.Config) map[intercept.RuleID]uint64 {
	t.Helper()
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	refuses := map[intercept.RuleID]bool{}
	for _, chain := range rs.Chains {
		for _, r := range chain.Rules {
			switch r.Target.(type) {
			case intercept.Drop, intercept.Reject:
				refuses[r.ID] = strings.HasPrefix(r.ID.Line(), "B")
			}
		}
	}
	counted := map[intercept.RuleID]uint64{}
	counters, err := status{target}.Counters()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range counters {
		if refuses[n.Rule] && n.Packets > 0 {
			counted[n.Rule] += n.Packets
		}
	}
	return counted
}

// excludedUser is one whose connections are left alone.
var excludedUser = &intercept.Owner{UID: 2000, GID: 2000}

// exempting has something of every kind that is left alone.
func exempting(c *intercept.Config) {
	c.Outbound.ExcludeUIDs = intercept.IDs{intercept.ID(2000)}
	c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
	c.DNS.Mode = intercept.DNSAll
}

// exemptingWith returns such a configuration with a backstop.
func exemptingWith(b intercept.Backstop) intercept.Config {
	c := intercept.Default()
	exempting(&c)
	c.Backstop = b
	return c
}

// talk is a flow and the fate that it meets, whatever the backstop.
type talk struct {
	netlab.Flow
	want intercept.Fate
}

// talks are flows of every kind, in both families.
func talks(c intercept.Config) (all []talk) {
	outbound, inbound, nowhere := intercept.RedirectedTo(15001), intercept.RedirectedTo(15006), intercept.Fate{}
	switch c.Inbound.Mode {
	case intercept.InboundTProxy:
		inbound = transparently
	case intercept.InboundOff:
		inbound = nowhere
	case intercept.InboundRedirect:
	}
	for i := range 2 {
		add := func(from netlab.Side, who *intercept.Owner, to netip.AddrPort, want intercept.Fate) {
			all = append(all, talk{netlab.Flow{
				From: from, Protocol: intercept.TCP, Dst: to, Owner: who, Timeout: 20 * time.Second,
			}, want})
		}
		pod, world := pods[i].Addr(), outside[i]
		self := netip.MustParseAddr([]string{"127.0.0.1", "::1"}[i])
		add(netlab.FromPod, app, world, outbound)
		add(netlab.FromPod, proxy, world, nowhere)
		add(netlab.FromPod, excludedUser, world, nowhere)
		add(netlab.FromPod, app, netip.AddrPortFrom(world.Addr(), 5432), nowhere)
		add(netlab.FromPod, app, netip.AddrPortFrom(world.Addr(), 53), intercept.RedirectedTo(15053))
		add(netlab.FromPod, app, pods[i], nowhere)
		add(netlab.FromPod, app, netip.AddrPortFrom(self, 8081), nowhere)
		if c.Inbound.Mode == intercept.InboundRedirect {
			add(netlab.FromPod, proxy, pods[i], inbound)
		}
		add(netlab.FromPeer, nil, pods[i], inbound)
		add(netlab.FromPeer, nil, netip.AddrPortFrom(pod, 15021), nowhere)
		if c.Inbound.Mode == intercept.InboundRedirect {
			add(netlab.FromPeer, nil, netip.AddrPortFrom(pod, 15006), nowhere) // to the proxy itself
		}
		if len(c.VirtualInterfaces) > 0 {
			add(netlab.FromVM, nil, world, outbound)
			add(netlab.FromVM, nil, netip.AddrPortFrom(world.Addr(), 5432), nowhere)
			// Answers to what is behind the pod, by a server of the pod's.
			bridge := netip.MustParseAddr([]string{"10.246.0.1", "fd00:246::1"}[i])
			add(netlab.FromVM, nil, netip.AddrPortFrom(bridge, 5432), nowhere)
		}
	}
	return all
}

// end is a way in which a connection goes on and ends. It gets one on which the
// server has said who it is, and echoes.
type end struct {
	name string
	do   func(conn *net.TCPConn, data []byte) error
}

var ends = []end{
	{"the client ends first", func(conn *net.TCPConn, data []byte) error {
		return errors.Join(transfer(conn, data), conn.CloseWrite(), drained(conn), conn.Close())
	}},
	{"it is closed when all is there", func(conn *net.TCPConn, data []byte) error {
		return errors.Join(transfer(conn, data), conn.Close())
	}},
	{"it is reset on its way", func(conn *net.TCPConn, data []byte) error {
		return errors.Join(write(conn, data[:len(data)/8]), conn.SetLinger(0), conn.Close())
	}},
	{"it is closed with data unread", func(conn *net.TCPConn, data []byte) error {
		return errors.Join(write(conn, data[:len(data)/8]), readByte(conn), conn.Close())
	}},
	{"it is closed with data unsent", func(conn *net.TCPConn, data []byte) error {
		return errors.Join(write(conn, data[:len(data)/8]), conn.Close())
	}},
	{"it is half closed and the rest is read late", func(conn *net.TCPConn, data []byte) error {
		err := errors.Join(write(conn, data[:1000]), conn.CloseWrite())
		got, readErr := io.ReadAll(conn)
		if readErr == nil && !bytes.Equal(got, data[:1000]) {
			readErr = fmt.Errorf("%d bytes of 1000 came back", len(got))
		}
		return errors.Join(err, readErr, conn.Close())
	}},
}

// transfer sends data and has it back.
func transfer(conn *net.TCPConn, data []byte) error {
	sent := make(chan error, 1)
	go func() { sent <- write(conn, data) }()
	got := make([]byte, len(data))
	_, err := io.ReadFull(conn, got)
	if err == nil && !bytes.Equal(got, data) {
		err = errors.New("other bytes came back")
	}
	return errors.Join(err, <-sent)
}

func drained(conn *net.TCPConn) error {
	if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
		return fmt.Errorf("after the end: %d bytes, %w", len(rest), err)
	}
	return nil
}

func readByte(conn *net.TCPConn) error { _, err := conn.Read(make([]byte, 1)); return err }

// TestOrdinaryTraffic transfers data on connections of every kind, and ends
// them in every way, on good cables and bad ones.
func TestOrdinaryTraffic(t *testing.T) {
	for name, test := range map[string]struct {
		options netlab.Options
		sidecar netlab.SidecarConfig
		sysctls map[string]string
		set     func(*intercept.Config)
		size    int
		// proves are counters of TCP's (nstat(8)) of which one at least has counted, or the test proves nothing.
		proves []string
	}{
		"plain": {size: 300_000},
		"with loss": {
			options: netlab.Options{Accidents: netlab.Accidents{Lost: 3, Twice: 3, Late: 6}}, size: 40_000,
			proves: []string{"TCPTimeouts", "TCPFastRetrans", "TCPLossProbes"},
		},
		"with SYN cookies": {
			sysctls: map[string]string{"net/ipv4/tcp_syncookies": "2"}, size: 20_000, proves: []string{"SyncookiesRecv"},
		},
		"without taking up connections": {
			sysctls: map[string]string{"net/netfilter/nf_conntrack_tcp_loose": "0"}, size: 20_000,
		},
		"tproxy": {
			sidecar: netlab.SidecarConfig{Transparent: true}, size: 20_000,
			set: func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundTProxy },
		},
		"tproxy, with SYN cookies": {
			sidecar: netlab.SidecarConfig{Transparent: true}, size: 20_000,
			set:     func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundTProxy },
			sysctls: map[string]string{"net/ipv4/tcp_syncookies": "2"}, proves: []string{"SyncookiesRecv"},
		},
		"tproxy, with loss": {
			sidecar: netlab.SidecarConfig{Transparent: true}, size: 40_000,
			set:     func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundTProxy },
			options: netlab.Options{Accidents: netlab.Accidents{Lost: 3, Twice: 3, Late: 6}},
			proves:  []string{"TCPTimeouts", "TCPFastRetrans", "TCPLossProbes"},
		},
		"inbound off": {size: 20_000, set: func(c *intercept.Config) { c.Inbound.Mode = intercept.InboundOff }},
		"other protocols and UDP rejected": {size: 20_000, set: func(c *intercept.Config) {
			c.Outbound.UDP, c.Outbound.OtherProtocols = intercept.TreatmentReject, intercept.TreatmentReject
		}},
		"a nested bridge": {
			options: netlab.Options{VM: true}, size: 20_000,
			set: func(c *intercept.Config) { c.VirtualInterfaces = []string{"br-*"} },
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachBackstop(t, func(t *testing.T, w way, b intercept.Backstop) {
				lab := netlab.NewT(t, test.options)
				if _, err := lab.StartSidecar(test.sidecar); err != nil {
					t.Fatal(err)
				}
				c := intercept.Default()
				exempting(&c)
				if test.set != nil {
					test.set(&c)
				}
				if c.Backstop = b; b == intercept.BackstopOff {
					c.Outbound.OtherProtocols = intercept.TreatmentPass
				}
				target := w.target(t, lab)
				applyConfig(t, target, c)
				for sysctl, value := range test.sysctls {
					podSysctl(t, lab, sysctl, value)
				}
				data := bytes.Repeat([]byte("0123456789abcdef"), test.size/16)
				var flows sync.WaitGroup
				for _, f := range talks(c) {
					flows.Go(func() { f.through(t, lab, data) })
				}
				flows.Wait()
				if got := refusals(t, target, c); len(got) > 0 {
					t.Errorf("refused: %v", got)
				}
				counts := func(name string) bool { return netstat(t, lab, name) > 0 }
				if len(test.proves) > 0 && !slices.ContainsFunc(test.proves, counts) {
					t.Errorf("%s are all 0", test.proves)
				}
			})
		})
	}
}

// through goes through all ends on the talk's flow.
func (f talk) through(t *testing.T, lab *netlab.Lab, data []byte) {
	for _, e := range ends {
		conn, got, err := lab.Dial(f.Flow)
		if err != nil || got.Fate != f.want {
			t.Errorf("%s: %s, %v; want %s", f, got, err, f.want)
			return
		}
		tcp, is := conn.(*net.TCPConn)
		if !is {
			t.Errorf("a connection of type %T", conn)
			return
		}
		if err := errors.Join(tcp.SetDeadline(time.Now().Add(20*time.Second)), e.do(tcp, data)); err != nil {
			t.Errorf("%s: %s: %v", f, e.name, err)
		}
		tcp.Close() // fails where it is closed already
	}
	if err := f.serverEndsFirst(lab); err != nil {
		t.Errorf("%s: the server ends first: %v", f, err)
	}
}

// serverEndsFirst has the server close, and sends something after that, which
// the server's kernel answers with a reset.
func (f talk) serverEndsFirst(lab *netlab.Lab) error {
	conn, err := dialTCP(lab, f.Flow, 0)
	if err != nil {
		return err
	}
	defer conn.Close()
	// What is no lookup of DNS, which begins with its length, ends the conversation.
	err = errors.Join(conn.SetDeadline(time.Now().Add(20*time.Second)), write(conn, []byte{0, 1, 'x'}), drained(conn))
	if err != nil {
		return err
	}
	err = write(conn, []byte("late"))
	if _, read := conn.Read(make([]byte, 1)); err == nil && !errors.Is(read, unix.ECONNRESET) && !errors.Is(read, io.EOF) {
		return fmt.Errorf("what is late is answered with %v", read)
	}
	return err
}

// dialTCP connects as the sender of a flow does, without a word. The protocol is TCP's, or that of something like it.
func dialTCP(lab *netlab.Lab, f netlab.Flow, protocol int, options ...func(fd int) error) (*net.TCPConn, error) {
	in := map[netlab.Side]*netlab.Namespace{
		netlab.FromPod: lab.Pod, netlab.FromPeer: lab.Peer, netlab.FromVM: lab.VM,
	}[f.From]
	domain := unix.AF_INET
	if f.Dst.Addr().Is6() {
		domain = unix.AF_INET6
	}
	fd, err := in.SocketOf(domain, unix.SOCK_STREAM, protocol, f.Owner)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "client")
	defer file.Close()
	for _, set := range options {
		if err := set(fd); err != nil {
			return nil, err
		}
	}
	if f.Src.IsValid() {
		err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, netlab.Sockaddr(f.Src)))
		if err != nil {
			return nil, err
		}
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var connErr error
	err = errors.Join(file.SetDeadline(time.Now().Add(20*time.Second)), raw.Write(func(fd uintptr) bool {
		connErr = unix.Connect(int(fd), netlab.Sockaddr(f.Dst))
		return !errors.Is(connErr, unix.EINPROGRESS) && !errors.Is(connErr, unix.EALREADY)
	}))
	if errors.Is(connErr, unix.EISCONN) {
		connErr = nil
	}
	if err = errors.Join(err, connErr); err != nil {
		return nil, err
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// TestFlushedConnections: conntrack forgets everything, as with conntrack -F,
// whether or not it takes up connections in the middle (tcp_loose). What was not
// captured goes on. What the application sends on a captured connection is
// refused, where it would leave in clear without the second look.
func TestFlushedConnections(t *testing.T) {
	for _, loose := range []string{"0", "1"} {
		t.Run("loose "+loose, func(t *testing.T) {
			eachBackstop(t, func(t *testing.T, w way, b intercept.Backstop) { flushedConnections(t, w, b, loose) })
		})
	}
}

func flushedConnections(t *testing.T, w way, b intercept.Backstop, loose string) {
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	c := exemptingWith(b)
	all := talks(c)
	open := func(older bool) (conns []*net.TCPConn) {
		t.Helper()
		for _, f := range all {
			conn, got, err := lab.Dial(f.Flow)
			if err != nil || !older && got.Fate != f.want {
				t.Fatalf("%s: %s, %v", f, got, err)
			}
			t.Cleanup(func() { conn.Close() })
			// What the kernel would still say is said.
			if err := acknowledge(conn); err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn.(*net.TCPConn))
		}
		return conns
	}
	older := open(true)
	target := w.target(t, lab)
	applyConfig(t, target, c)
	podSysctl(t, lab, "net/netfilter/nf_conntrack_tcp_loose", loose)
	younger := open(false)
	for range 2 {
		if err := lab.Pod.FlushEntries(); err != nil {
			t.Fatal(err)
		}
		for i, f := range all {
			longLived{f.String() + ", older than the rules", older[i]}.echo(t, "after conntrack has forgotten it")
			if f.want == (intercept.Fate{}) {
				longLived{f.String(), younger[i]}.echo(t, "after conntrack has forgotten it")
			}
		}
	}
	if got := refusals(t, target, c); len(got) > 0 {
		t.Errorf("refused: %v", got)
	}

	watch, err := lab.Pod.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	for i, f := range all {
		if f.Owner != app || f.want == (intercept.Fate{}) {
			continue
		}
		if _, err := watch.SoFar(); err != nil {
			t.Fatal(err)
		}
		if err := write(younger[i], []byte("in clear?")); err != nil {
			t.Fatal(err)
		}
		seen, err := watch.SoFar()
		if err != nil {
			t.Fatal(err)
		}
		leaves := slices.ContainsFunc(seen, func(p netlab.Seen) bool {
			return p.Sent && p.Interface == "eth0" && bytes.Contains(p.Data, []byte("in clear?"))
		})
		if leaves != (b == intercept.BackstopOff) {
			t.Errorf("%s: what the application sends leaves: %t: %s", f, leaves, seen)
		}
		if _, err := younger[i].Read(make([]byte, 1)); b == intercept.BackstopOn && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: the application hears %v", f, err)
		}
	}
	if got := refusals(t, target, c); (len(got) > 0) != (b == intercept.BackstopOn) {
		t.Errorf("refused: %v", got)
	}
}

// TestTimeWait: a connection that has ended answers what comes late by a bare
// acknowledgment, which no process owns, also after conntrack has forgotten it.
func TestTimeWait(t *testing.T) {
	eachBackstop(t, func(t *testing.T, w way, b intercept.Backstop) {
		lab := netlab.NewT(t, netlab.Options{})
		if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
			t.Fatal(err)
		}
		c := intercept.Default()
		c.Backstop = b
		target := w.target(t, lab)
		applyConfig(t, target, c)
		for _, dst := range outside {
			conn, err := dialTCP(lab, netlab.Flow{Protocol: intercept.TCP, Dst: dst, Owner: proxy}, 0)
			if err != nil {
				t.Fatal(err)
			}
			src := conn.LocalAddr().(*net.TCPAddr).AddrPort()
			err = errors.Join(conn.CloseWrite(), drained(conn), conn.Close(), lab.Pod.FlushEntries())
			if err != nil {
				t.Fatal(err)
			}
			watch, err := lab.Pod.Watch()
			if err != nil {
				t.Fatal(err)
			}
			// The server's end, once more.
			again := netlab.Segment{Src: dst, Dst: src, Flags: intercept.FIN | intercept.ACK, Seq: 1, Ack: 1}
			if err := lab.Inject(netlab.FromPeer, again, netlab.Injection{}); err != nil {
				t.Fatal(err)
			}
			_, err = watch.Until(func(p netlab.Seen) bool {
				return p.Sent && p.Interface == "eth0" && p.Src == src && p.Dst == dst && p.Flags == intercept.ACK
			})
			if err := errors.Join(err, watch.Close()); err != nil {
				t.Errorf("%s > %s: it is not answered: %v", src, dst, err)
			}
		}
		if got := refusals(t, target, c); len(got) > 0 {
			t.Errorf("refused: %v", got)
		}
		if b == intercept.BackstopOff {
			return
		}
		// Without this they would be dropped: else the test proves nothing.
		all, err := status{target}.Counters()
		if err != nil {
			t.Fatal(err)
		}
		acks := uint64(0)
		for _, n := range all {
			if strings.HasPrefix(string(n.Rule), "B5.ack.") {
				acks += n.Packets
			}
		}
		if acks < uint64(len(outside)) {
			t.Errorf("%d bare acknowledgments were let go", acks)
		}
	})
}

// TestOpenings opens connections in the ways that TCP has besides the usual one.
func TestOpenings(t *testing.T) {
	const mptcp = 262 // IPPROTO_MPTCP
	// Data in the SYN, with a cookie or without one (ip-sysctl: client 1, server 2, without a cookie 4 and 0x200, all
	// servers 0x400).
	const everyFastOpen = "0x607"
	set := func(level, option, value int) func(int) error {
		return func(fd int) error { return unix.SetsockoptInt(fd, level, option, value) }
	}
	for name, test := range map[string]struct {
		protocol int
		options  []func(int) error
		sysctls  map[string]string
		check    func(*testing.T, *net.TCPConn)
	}{
		"Fast Open": {
			options: []func(int) error{set(unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1)},
			sysctls: map[string]string{"net/ipv4/tcp_fastopen": everyFastOpen},
			check: func(t *testing.T, conn *net.TCPConn) {
				const synData = 0x20 // TCPI_OPT_SYN_DATA
				err := control(conn, func(fd int) error {
					info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
					if err == nil && info.Options&synData == 0 {
						err = fmt.Errorf("no data came with the SYN: options %#x", info.Options)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			},
		},
		"MPTCP": {protocol: mptcp},
	} {
		t.Run(name, func(t *testing.T) {
			eachBackstop(t, func(t *testing.T, w way, b intercept.Backstop) {
				lab := netlab.NewT(t, netlab.Options{})
				// Before anybody in the pod listens.
				for _, ns := range []*netlab.Namespace{lab.Pod, lab.Peer} {
					for sysctl, value := range test.sysctls {
						if err := ns.Do(func() error { return os.WriteFile("/proc/sys/"+sysctl, []byte(value), 0) }); err != nil {
							t.Fatal(err)
						}
					}
				}
				if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
					t.Fatal(err)
				}
				c := exemptingWith(b)
				target := w.target(t, lab)
				applyConfig(t, target, c)
				for _, f := range talks(c) {
					ensureServed(t, lab, f)
					conn, err := dialTCP(lab, f.Flow, test.protocol, test.options...)
					if err != nil {
						t.Errorf("%s: %v", f, err)
						continue
					}
					got, err := greeting(conn)
					if want := f.answerer(); err != nil || got.Role != want {
						t.Errorf("%s: %+v, %v; not answered by %s", f, got, err, want)
					} else if test.check != nil && got.Role != netlab.RolePeer {
						test.check(t, conn)
					}
					conn.Close()
				}
				if got := refusals(t, target, c); len(got) > 0 {
					t.Errorf("refused: %v", got)
				}
			})
		})
	}
}

// ensureServed has somebody listen where a flow goes.
func ensureServed(t *testing.T, lab *netlab.Lab, f talk) {
	t.Helper()
	if _, err := lab.Send(f.Flow); err != nil {
		t.Fatal(err)
	}
}

// answerer is who answers the flow.
func (f talk) answerer() netlab.Role {
	switch {
	case f.want == intercept.RedirectedTo(15001):
		return netlab.RoleOutbound
	case f.want == intercept.RedirectedTo(15053):
		return netlab.RoleDNS
	case f.want.Action != intercept.Pass:
		return netlab.RoleInbound
	case f.Dst.Port() == 15006:
		return netlab.RoleInbound
	case slices.ContainsFunc(outside, func(a netip.AddrPort) bool { return a.Addr() == f.Dst.Addr() }):
		return netlab.RolePeer
	}
	return netlab.RoleApp
}

// greeting asks a server who it is.
func greeting(conn net.Conn) (b netlab.Banner, err error) {
	err = errors.Join(conn.SetDeadline(time.Now().Add(10*time.Second)), write(conn, []byte("whoami\n")))
	if err == nil {
		err = json.NewDecoder(conn).Decode(&b)
	}
	return b, err
}

// TestSimultaneousOpen: both ends send a SYN, and both SYNs arrive. The second
// look takes the other end's for one that opens a connection to the pod (B9),
// and refuses it at once: the one opening that it keeps from what is left alone.
func TestSimultaneousOpen(t *testing.T) {
	eachBackstop(t, func(t *testing.T, w way, b intercept.Backstop) {
		lab := netlab.NewT(t, netlab.Options{})
		if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
			t.Fatal(err)
		}
		c := exemptingWith(b)
		target := w.target(t, lab)
		applyConfig(t, target, c)
		for i, dst := range []string{"203.0.113.77:7000", "[2001:db8::77]:7000"} {
			there := netip.MustParseAddrPort(dst)
			here := netip.AddrPortFrom(pods[i].Addr(), 7001)
			err := simultaneously(t, lab, here, there)
			if refused := errors.Is(err, unix.ECONNREFUSED); refused != (b == intercept.BackstopOn) || !refused && err != nil {
				t.Errorf("%s and %s: %v", here, there, err)
			}
		}
		if got := refusals(t, target, c); (got["B9.I7"] == 2) != (b == intercept.BackstopOn) {
			t.Errorf("refused: %v", got)
		}
	})
}

// simultaneously opens a connection from both ends, of which the pod's SYN is
// lost at first. It returns what the other end hears.
func simultaneously(t *testing.T, lab *netlab.Lab, here, there netip.AddrPort) error {
	t.Helper()
	hole := netlink.Route{Dst: netlink.NewIPNet(there.Addr().AsSlice()), Type: unix.RTN_BLACKHOLE}
	route := func(change func(*netlink.Handle, *netlink.Route) error) {
		t.Helper()
		err := lab.Peer.Do(func() error {
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer h.Close()
			return change(h, &hole)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	domain, level, transparent := unix.AF_INET, unix.SOL_IP, unix.IP_TRANSPARENT
	if there.Addr().Is6() {
		domain, level, transparent = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	fd, err := lab.Pod.Socket(domain, unix.SOCK_STREAM, excludedUser)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "pod")
	defer socket.Close()
	defer netlab.HangUp(socket)
	route((*netlink.Handle).RouteAdd)
	// The SYN has been sent when the call returns.
	err = errors.Join(unix.Bind(fd, netlab.Sockaddr(here)), unix.Connect(fd, netlab.Sockaddr(there)))
	if !errors.Is(err, unix.EINPROGRESS) {
		t.Fatal(err)
	}
	route((*netlink.Handle).RouteDel)
	conn, err := dialTCP(lab, netlab.Flow{From: netlab.FromPeer, Src: there, Dst: here}, 0,
		func(fd int) error { return unix.SetsockoptInt(fd, level, transparent, 1) })
	if err != nil {
		return err
	}
	defer conn.Close()
	// The end in the pod has it, too.
	if err := write(conn, []byte("x")); err != nil {
		return err
	}
	awaitReadable(t, fd)
	return nil
}

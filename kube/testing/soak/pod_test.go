//go:build linux

package soak

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// pod is one of a backend, with its sidecar and its traffic.
type pod struct {
	*counts
	name    string
	backend dataplane.Backend
	lab     *netlab.Lab
	watch   *netlab.Watch
	tools   *tools
	r       *rand.Rand // of the one goroutine that leads the pod's life

	// flowing is held by every flow, and by whoever wants none on its way.
	flowing sync.RWMutex
	// promise is whether rules are promised to be in force. It changes only while no flow is on its way.
	promise bool

	mu    sync.Mutex
	asked []intercept.Config // for, since they are promised
}

func newPod(t *testing.T, c *counts, b dataplane.Backend, tools *tools, seed uint64) *pod {
	t.Helper()
	p := &pod{counts: c, name: string(b), backend: b, tools: tools, r: rand.New(rand.NewPCG(seed, 7)),
		lab: netlab.NewT(t, netlab.Options{SecondInterface: true})}
	if _, err := p.lab.StartSidecar(netlab.SidecarConfig{Transparent: true}); err != nil {
		t.Fatal(err)
	}
	// A client's last word can be lost, with what conntrack knew of it.
	for _, ns := range []*netlab.Namespace{p.lab.Pod, p.lab.Peer} {
		if err := run(ns, nil, "sh", "-ec", `cd /proc/sys/net/ipv4
			echo 20 > tcp_keepalive_time; echo 5 > tcp_keepalive_intvl; echo 3 > tcp_keepalive_probes`); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if p.watch, err = p.lab.Peer.Watch(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.watch.Close() })
	return p
}

func (p *pod) violated(format string, args ...any) {
	p.counts.violated("%s: %s", p.name, fmt.Sprintf(format, args...))
}

// target is the pod, for what is done in this process.
func (p *pod) target() dataplane.Pod {
	return dataplane.Pod{NetNS: p.lab.Pod.Path(), Backend: p.backend, IPTables: dataplane.IPTables{Wait: time.Minute}}
}

// choose returns a configuration, which may be in force from now on.
func (p *pod) choose(r *rand.Rand) intercept.Config {
	c := configuration(r, p.lab)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, c)
	return c
}

// patience is how long a flow may take. Nobody waits for it unless something is wrong, or has just gone down.
const patience = time.Second

// traffic sends flows until it is told to stop.
func (p *pod) traffic(stop <-chan struct{}) {
	all := flows()
	open := map[int]*conversation{}
	defer func() {
		for _, c := range open {
			hangUp(c)
		}
	}()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		i := n % len(all)
		p.flowing.RLock()
		p.flow(all[i], open, i)
		promised := p.promise
		p.flowing.RUnlock()
		if !promised {
			// What is open could go outside by right from now on, and so hereafter.
			for i, c := range open {
				hangUp(c)
				delete(open, i)
			}
		}
	}
}

// conversation is a connection that stays open.
type conversation struct {
	net.Conn
	turns int
}

// longest is how many times a connection is written to.
const longest = 8

// flow sends one, or more on one that is open.
func (p *pod) flow(f promised, open map[int]*conversation, i int) {
	if c := open[i]; c != nil {
		c.turns++
		err := p.speak(c)
		if err != nil {
			p.add(cut, 1)
		}
		if err != nil || c.turns == longest {
			hangUp(c)
			delete(open, i)
		}
		return
	}
	f.Timeout = patience
	c, got, err := p.lab.Dial(f.Flow)
	if c == nil {
		// Dropped, rejected, or reset on the way.
		p.add(cut, 1)
		return
	}
	if err != nil {
		hangUp(c)
		p.add(cut, 1)
		return
	}
	p.judge(f, got)
	if f.kind == appOut && p.promise && p.speak(c) == nil {
		open[i] = &conversation{Conn: c}
		return
	}
	hangUp(c)
}

// judge holds what became of a flow against what is promised.
func (p *pod) judge(f promised, got netlab.Delivery) {
	want := map[kind]netlab.Role{appOut: netlab.RoleOutbound, appAsks: netlab.RoleDNS, proxyOut: netlab.RolePeer,
		clientIn: netlab.RoleInbound}[f.kind]
	p.add(checked, 1)
	if f.kind == clientIn && got.Role == netlab.RolePeer {
		return // it has not left the peer, whose way to the pod is gone while an interface is down
	}
	if got.Role != want && (p.promise || f.kind == proxyOut) {
		p.violated("%s: %s", f.Flow, got)
	}
}

// speak sends some bytes, which come back.
func (p *pod) speak(c net.Conn) error {
	text := []byte(strings.Repeat("the app's own ", 20) + "\n")
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write(text); err != nil {
		return err
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(c, back); err != nil {
		return err
	}
	p.add(bytesSent, int64(len(text)))
	return nil
}

// hangUp ends a connection at once: its addresses are free again.
func hangUp(c net.Conn) {
	inner := c
	if talk, ok := c.(*conversation); ok {
		inner = talk.Conn
	}
	if tcp, ok := inner.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// look judges what has come out of the pod since the last look.
func (p *pod) look() {
	all, err := p.watch.SoFar()
	if err != nil {
		p.violated("look at what goes outside: %v", err)
	}
	p.add(seenOutside, int64(len(all)))
	if !p.promise {
		return
	}
	for _, s := range all {
		opens := s.Flags&(intercept.SYN|intercept.ACK) == intercept.SYN
		if !s.Sent && isApps(s.Dst.Addr()) && (s.Protocol == intercept.UDP ||
			s.Protocol == intercept.TCP && (opens || len(s.Data) > 0)) {
			p.violated("outside: %s %q", s, s.Data[:min(len(s.Data), 20)])
		}
	}
}

// vow makes the promise, or takes it back, while no flow is on its way.
func (p *pod) vow(promised bool) {
	p.flowing.Lock()
	defer p.flowing.Unlock()
	p.look()
	p.promise = promised
}

// flap takes the other end of the cable down and up, and has an interface come and go.
func (p *pod) flap() error {
	err := p.lab.Pod.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "passing"}, PeerName: "by"}
		return errors.Join(netlink.LinkAdd(veth), netlink.LinkSetUp(veth), netlink.LinkDel(veth))
	})
	if err != nil {
		return err
	}
	mac, err := p.podMAC()
	if err != nil {
		return err
	}
	// What goes with the interface that is down: all but the address of IPv4.
	return run(p.lab.Peer, nil, "sh", "-ec", `
		ip link set eth0 down
		ip link set eth0 up
		ip -6 address add fd00:244::1/128 dev eth0 nodad noprefixroute
		ip route add 10.244.0.5 dev eth0 scope link
		ip -6 route add fd00:244::5 dev eth0
		ip neighbor replace 10.244.0.5 dev eth0 lladdr `+mac+` nud permanent
		ip neighbor replace fd00:244::5 dev eth0 lladdr `+mac+` nud permanent`)
}

func (p *pod) podMAC() (mac string, err error) {
	err = p.lab.Pod.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err == nil {
			mac = link.Attrs().HardwareAddr.String()
		}
		return err
	})
	return mac, err
}

// run runs a command in a namespace.
func run(ns *netlab.Namespace, out io.Writer, name string, args ...string) error {
	var b strings.Builder
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &b, &b
	if err := ns.Start(cmd, nil); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, &b)
	}
	if out != nil {
		_, err := io.WriteString(out, b.String())
		return err
	}
	return nil
}

// contents are the rules and routes of the pod, anybody's, without counters and without numbers that grow.
func (p *pod) contents() (string, error) {
	var b strings.Builder
	err := run(p.lab.Pod, &b, "sh", "-ec", `
		for f in -4 -6; do ip $f rule; ip $f route show table all | grep -v fe80:; done
		nft -s list ruleset
		for p in iptables-legacy-save ip6tables-legacy-save; do $p | sed 's/^#.*//; s/\[[0-9:]*\]//' ; done`)
	return b.String(), err
}

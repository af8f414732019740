//go:build linux

package traffic

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

var outside = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.10:80"), netip.MustParseAddrPort("[2001:db8::10]:80")}

// variant returns configurations that differ in everything but what they do
// to connections to outside.
func variantConfig(n int) intercept.Config {
	c := intercept.Default()
	for i := range 1 + n*20 {
		c.Outbound.ExcludeCIDRs = append(c.Outbound.ExcludeCIDRs,
			netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/24", i)), netip.MustParsePrefix(fmt.Sprintf("fd00:%x::/32", i)))
	}
	c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(uint16(1000 + n))}
	c.Inbound.DropInvalid = n%3 == 0
	if n%2 == 0 {
		c.DNS.Mode = intercept.DNSAll
	}
	if n%4 == 1 {
		c.Outbound.IncludeUIDs = intercept.IDs{{First: 1000, Last: 1999}}
	}
	return c
}

// variant is what variantConfig compiles to.
func variant(t testing.TB, n int) intercept.Ruleset {
	t.Helper()
	rs, err := intercept.Compile(variantConfig(n))
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// TestReplaceUnderLoad: four clients connect without a pause while the rules
// are replaced a dozen times. No connection slips past the proxy and none
// waits.
func TestReplaceUnderLoad(t *testing.T) { each(t, replaceUnderLoad) }

func replaceUnderLoad(t *testing.T, w way) {
	lab, b := labWithSidecar(t, w)
	apply(t, b, variant(t, 0))

	const replacements, perReplacement = 12, 2000
	var captured, escaped, failed, stalled atomic.Int64
	var stop atomic.Bool
	var clients sync.WaitGroup
	for i := range 4 {
		clients.Go(func() {
			for !stop.Load() {
				got, retransmits, err := connectOnce(lab, netlab.Flow{Protocol: intercept.TCP, Dst: outside[i%2], Owner: app})
				switch {
				case err != nil || got.Fate.Action == intercept.Dropped || got.Fate.Action == intercept.Rejected:
					failed.Add(1)
					t.Errorf("%s, %v", got, err)
				case got.Fate != intercept.RedirectedTo(15001):
					escaped.Add(1)
					t.Errorf("escaped: %s", got)
				case retransmits > 0:
					stalled.Add(1)
					t.Errorf("stalled: %d segments had to be sent again: %s", retransmits, got)
				default:
					captured.Add(1)
				}
			}
		})
	}
	// Each replacement is made while the clients have work to do with it: as much as most machines do in a second, and as a
	// slow one does in three.
	for n := range replacements {
		before, slow := captured.Load(), time.Now().Add(3*time.Second)
		for made := int64(0); !t.Failed() && made < perReplacement; made = captured.Load() - before {
			if made > perReplacement/20 && time.Now().After(slow) {
				break
			}
			<-time.After(time.Millisecond)
		}
		if got, err := b.Apply(variant(t, 1+n)); err != nil || got != intercept.Replaced {
			t.Errorf("replacement %d: %s, %v", n, got, err)
		}
	}
	stop.Store(true)
	clients.Wait()
	t.Logf("%d captured, %d escaped, %d stalled, %d failed", captured.Load(), escaped.Load(), stalled.Load(),
		failed.Load())
}

// connectOnce opens and closes a connection. A client whose packet gets lost
// waits until it sends it again, so retransmits tell of a wait without a clock.
func connectOnce(lab *netlab.Lab, f netlab.Flow) (got netlab.Delivery, retransmits uint32, err error) {
	conn, got, err := lab.Dial(f)
	if conn == nil {
		return got, 0, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return got, 0, errors.Join(fmt.Errorf("a %T, not a TCP connection", conn), conn.Close())
	}
	raw, err := tcp.SyscallConn()
	if err == nil {
		var info *unix.TCPInfo
		var infoErr error
		err = raw.Control(func(fd uintptr) {
			info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO)
		})
		if err = errors.Join(err, infoErr); err == nil {
			retransmits = info.Total_retrans
		}
	}
	// Reset it: its addresses can be used again at once.
	return got, retransmits, errors.Join(err, tcp.SetLinger(0), tcp.Close())
}

// longLived is a connection that is open and echoes.
type longLived struct {
	what string
	net.Conn
}

func (c longLived) echo(t *testing.T, when string) {
	t.Helper()
	text := []byte(when + "\n")
	got := make([]byte, len(text))
	err := errors.Join(c.SetDeadline(time.Now().Add(5*time.Second)), write(c, text))
	if err == nil {
		_, err = io.ReadFull(c, got)
	}
	if err == nil {
		err = acknowledge(c.Conn)
	}
	if err != nil || string(got) != string(text) {
		t.Errorf("%s, %s: %q, %v", c.what, when, got, err)
	}
}

// acknowledge sends what the kernel would send some 40 ms later: an
// acknowledgment of a captured connection that leaves while there are no rules
// is not translated, and answered with a reset.
func acknowledge(c net.Conn) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return fmt.Errorf("a connection of type %T", c)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
	return errors.Join(err, set)
}

func write(w io.Writer, b []byte) error { _, err := w.Write(b); return err }

// TestEstablishedConnections: connections outlive what happens to the rules.
// Those from before the first Apply, when conntrack was not at work, are
// neither captured nor reset by it, by a replacement, by Remove or by another
// Apply; captured ones are not by a replacement.
func TestEstablishedConnections(t *testing.T) { each(t, establishedConnections) }

func establishedConnections(t *testing.T, w way) {
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	target := w.target(t, lab)

	open := func(when string, want func(netlab.Flow) intercept.Fate) (conns []longLived) {
		t.Helper()
		flows := []netlab.Flow{}
		for _, dst := range outside {
			flows = append(flows, netlab.Flow{Protocol: intercept.TCP, Dst: dst, Owner: app})
		}
		for _, pod := range []string{"10.244.0.5:8080", "[fd00:244::5]:8080"} {
			flows = append(flows, netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(pod)},
				netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(pod), Owner: proxy})
		}
		for _, f := range flows {
			conn, got, err := lab.Dial(f)
			if err != nil || got.Fate != want(f) {
				t.Fatalf("%s, %s: %s, %v; want %s", f, when, got, err, want(f))
			}
			t.Cleanup(func() { conn.Close() })
			conns = append(conns, longLived{fmt.Sprintf("%s from %s", f, when), conn})
		}
		return conns
	}
	pass := func(netlab.Flow) intercept.Fate { return intercept.Fate{} }
	captured := func(f netlab.Flow) intercept.Fate {
		if f.From == netlab.FromPeer || f.Owner == proxy {
			return intercept.RedirectedTo(15006)
		}
		return intercept.RedirectedTo(15001)
	}
	echo := func(conns []longLived, when string) {
		t.Helper()
		for _, c := range conns {
			c.echo(t, when)
		}
	}
	remove := func() {
		t.Helper()
		if removed, err := target.Remove(t.Context()); err != nil || !removed {
			t.Fatal(removed, err)
		}
	}

	before := open("before the first Apply", pass)
	applyConfig(t, target, variantConfig(0))
	echo(before, "after the first Apply")
	first := open("after the first Apply", captured)
	for n := range 6 {
		applyConfig(t, target, variantConfig(1+n))
		echo(before, fmt.Sprintf("after replacement %d", n))
		echo(first, fmt.Sprintf("after replacement %d", n))
	}
	remove()
	echo(before, "after Remove")
	between := open("after Remove", pass)
	applyConfig(t, target, variantConfig(3))
	echo(before, "after another Apply")
	echo(between, "after another Apply")
	echo(open("after another Apply", captured), "at once")
	echo(first, "after Remove and another Apply")
}

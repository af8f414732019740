//go:build linux

package security

import (
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// exhaustion is a way to leave connection tracking no room.
type exhaustion struct {
	claim, name string
	// entries fill its table, each time with others; full says that they leave no room for any other, and says what an
	// application hears then.
	entries func(room int, time uint16) iter.Seq[netlab.Entry]
	full    bool
	says    []string
}

var exhaustions = []exhaustion{
	{claim: "full-table", name: "entries of connections that were answered", full: true, says: []string{"silence"},
		entries: func(room int, time uint16) iter.Seq[netlab.Entry] { return flows(room+1, time, true) }},
	// They make room for others.
	{claim: "full-table", name: "entries that nobody has answered", says: []string{"outbound", "silence"},
		entries: func(room int, time uint16) iter.Seq[netlab.Entry] { return flows(room, time, false) }},
	{claim: "no-ports", name: "a connection from each port of the pod to the proxy", says: []string{"silence", "EPERM"},
		entries: func(int, uint16) iter.Seq[netlab.Entry] { return everyPort }},
}

// flows are so many flows of UDP that nobody needs, to a port of theirs.
func flows(n int, port uint16, answered bool) iter.Seq[netlab.Entry] {
	dst := netip.AddrPortFrom(netip.MustParseAddr("198.19.0.1"), port)
	return func(yield func(netlab.Entry) bool) {
		for i := range n {
			src := [4]byte{198, 18}
			binary.BigEndian.PutUint16(src[2:], uint16(i>>16))
			e := netlab.Entry{Protocol: intercept.UDP, Answered: answered,
				Src: netip.AddrPortFrom(netip.AddrFrom4(src), uint16(i)), Dst: dst}
			if !yield(e) {
				return
			}
		}
	}
}

// everyPort has a connection from each of the pod's ports to the proxy's outbound port.
func everyPort(yield func(netlab.Entry) bool) {
	for family := range 2 {
		proxy := netip.AddrPortFrom(netip.MustParseAddr([]string{"127.0.0.1", "::1"}[family]), 15001)
		for port := range 1 << 16 {
			e := netlab.Entry{Protocol: intercept.TCP, Answered: true,
				Src: netip.AddrPortFrom(podAddr(family), uint16(port)), Dst: proxy}
			if !yield(e) {
				return
			}
		}
	}
}

// room is how many entries a namespace may have.
func room(t *testing.T, lab *netlab.Lab) (n int) {
	t.Helper()
	err := lab.Pod.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
		if err == nil {
			n, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestExhaustion: without room in connection tracking what is captured does not get past the proxy.
func TestExhaustion(t *testing.T) {
	for _, e := range exhaustions {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			e.try(t)
		})
	}
}

func (e exhaustion) try(t *testing.T) {
	t.Helper()
	all := modes(false)
	lab := all[0].pod(t)
	prepare(t, scene{}, lab)
	n := room(t, lab)
	if n > 1<<20 {
		netlab.Skip(t, fmt.Sprintf("needs a table that can be filled: net.netfilter.nf_conntrack_max is %d", n))
	}
	watch, err := lab.Pod.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	// Entries of what was there before would make room when their time is over.
	if err := lab.Pod.FlushEntries(); err != nil {
		t.Fatal(err)
	}
	for i, m := range all {
		// The next takes the place of the one before, of which the entries that are translated go.
		pod := dataplane.Pod{NetNS: lab.Pod.Path(), Backend: m.backend}
		if _, err := pod.Apply(t.Context(), intercept.Default()); err != nil {
			t.Fatal(err)
		}
		if i == 0 || e.full {
			full, made, err := lab.Pod.FillEntries(e.entries(n, uint16(i)))
			if err != nil || full != e.full || made == 0 && !full {
				t.Fatalf("%d entries, full: %t, %v", made, full, err)
			}
		}
		for family := range 2 {
			to := destination(i, family)
			var outward, inward string
			err := lab.Pod.Do(func() error { outward = askOf(netlab.Domain(to.Addr()), netlab.Sockaddr(to), little); return nil })
			if err != nil {
				t.Fatal(err)
			}
			inside := inPod(to, insidePort)
			err = lab.Peer.Do(func() error { inward = askOf(netlab.Domain(to.Addr()), netlab.Sockaddr(inside), little); return nil })
			if err != nil {
				t.Fatal(err)
			}
			seen, err := watch.SoFar()
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range seen {
				if p.Sent && p.Interface == "eth0" && p.Dst.Addr() == to.Addr() {
					t.Errorf("%s: past the proxy: %s", m.name, p)
				}
			}
			if !within(outward, e.says) {
				t.Errorf("%s: an application that connects to %s hears %q, not one of %q", m.name, to, outward, e.says)
			}
			if !within(inward, []string{byProxy, "silence"}) || e.full && inward == byProxy {
				t.Errorf("%s: a client that connects to %s hears %q", m.name, inside, inward)
			}
		}
	}
	// With room again it is as ever, or the test proves nothing.
	if err := lab.Pod.FlushEntries(); err != nil {
		t.Fatal(err)
	}
	for family := range 2 {
		var outward string
		err := lab.Pod.Do(func() error { outward = ask(destination(10, family)); return nil })
		if err != nil || outward != "outbound" {
			t.Errorf("with room: %q, %v", outward, err)
		}
	}
}

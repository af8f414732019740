//go:build linux

package traffic

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestForgottenWhileReplaced: conntrack forgets all, and then the rules are replaced. A captured connection does not go
// on outside: it is not taken for one that is older than the rules. Those that are older go on, by the first
// replacement and by the next.
func TestForgottenWhileReplaced(t *testing.T) { each(t, forgottenWhileReplaced) }

func forgottenWhileReplaced(t *testing.T, w way) {
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	target := w.target(t, lab)
	open := func(dst netip.AddrPort, want intercept.Fate) longLived {
		t.Helper()
		f := netlab.Flow{Protocol: intercept.TCP, Dst: dst, Owner: app}
		conn, got, err := lab.Dial(f)
		if err != nil || got.Fate != want {
			t.Fatalf("%s: %s, %v; want %s", f, got, err, want)
		}
		t.Cleanup(func() { conn.Close() })
		return longLived{f.String(), conn}
	}
	var older []longLived
	for _, dst := range outside {
		older = append(older, open(dst, intercept.Fate{}))
	}
	applyConfig(t, target, variantConfig(0))
	for n := range 3 {
		var captured []longLived
		for _, dst := range outside {
			captured = append(captured, open(dst, intercept.RedirectedTo(15001)))
		}
		watch, err := lab.Peer.Watch()
		if err != nil {
			t.Fatal(err)
		}
		if err := lab.Pod.FlushEntries(); err != nil {
			t.Fatal(err)
		}
		applyConfig(t, target, variantConfig(1+n))
		const secret = "nobody outside shall read this\n"
		for _, c := range captured {
			// Its sender is told, then or with the next write.
			_ = c.SetDeadline(time.Now().Add(time.Second))
			_ = write(c, []byte(secret))
			if n, err := c.Read(make([]byte, len(secret))); err == nil {
				t.Errorf("%s, which conntrack has forgotten, goes on: %d bytes", c.what, n)
			}
		}
		for _, c := range older {
			c.echo(t, fmt.Sprintf("after replacement %d", n))
		}
		seen, err := watch.SoFar()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range seen {
			if string(s.Data) == secret {
				t.Errorf("replacement %d: %s", n, s)
			}
		}
		watch.Close()
	}
}

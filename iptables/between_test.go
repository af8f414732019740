//go:build linux

package iptables

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestBetweenTables: rules are replaced table by table. Whoever looks, or dies, after any of them: no client reaches
// the app past the proxy, and no connection of the app's gets outside.
func TestBetweenTables(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		for _, b := range []intercept.Backstop{intercept.BackstopOn, intercept.BackstopSyn, intercept.BackstopOff} {
			t.Run(string(b), func(t *testing.T) {
				redirect := intercept.Default()
				redirect.Backstop = b
				tproxy := redirect
				tproxy.Inbound.Mode = intercept.InboundTProxy
				invalid := redirect
				invalid.Inbound.DropInvalid = true // mangle, too, without tproxy
				betweenTables(t, v, redirect, tproxy, invalid, tproxy, redirect)
			})
		}
	})
}

// betweenTables replaces configurations one by the next.
func betweenTables(t *testing.T, v Variant, all ...intercept.Config) {
	t.Helper()
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: true}); err != nil {
		t.Fatal(err)
	}
	s := site{lab.Pod, nil, v}
	s.b = s.open(t, Options{Variant: v})
	reached := 0
	each := func(parts []Input) {
		t.Helper()
		for _, part := range parts {
			s.inSession(t, func(in *session) error {
				return in.restore(t.Context(), program{family: part.Family}, part.Text)
			})
			table, _, _ := strings.Cut(part.Text, "\n")
			for _, f := range between(part.Family) {
				got, err := lab.Send(f)
				switch {
				case errors.Is(err, syscall.ECONNRESET):
					// Given to the proxy by one table and redirected by another: refused is safe.
				case err != nil:
					t.Fatalf("%s after %s: %s: %v", part.Family, table, f, err)
				case got.Role == netlab.RoleInbound, got.Role == netlab.RoleOutbound:
					reached++
				case got.Role != "":
					t.Errorf("%s after %s: %s: %s", part.Family, table, f, got)
				}
			}
		}
	}
	for i, c := range all {
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		rs.Routes = nil // what goes to the pod's own addresses needs none
		if i == 0 {
			s.mustApply(t, rs, ruleset.Created)
			continue
		}
		before := s.listing(t)
		forward := func(f ruleset.Family, now listing) string { return transition(now, s.wanted(t, rs)[f], s.b.o) }
		each(s.parts(t, forward))
		s.mustBe(t, rs)
		// And if it then fails after all.
		each(s.parts(t, func(f ruleset.Family, now listing) string { return restoration(before[f], now, s.b.o) }))
		each(s.parts(t, forward))
	}
	if reached == 0 {
		t.Error("nothing reached the proxy")
	}
}

// between are flows that each of the configurations captures.
func between(f ruleset.Family) []netlab.Flow {
	in, out := "10.244.0.5:8080", "192.0.2.77:80"
	if f == ruleset.IPv6 {
		in, out = "[fd00:244::5]:8080", "[2001:db8::77]:80"
	}
	return []netlab.Flow{
		{From: netlab.FromPeer, Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(in), Timeout: time.Second / 4},
		{From: netlab.FromPod, Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(out),
			Owner: &intercept.Owner{UID: 1000, GID: 1000}},
	}
}

// parts are the texts for both families, a table each.
func (s site) parts(t *testing.T, text func(f ruleset.Family, now listing) string) (parts []Input) {
	t.Helper()
	now := s.listing(t)
	for _, f := range families() {
		for table := range strings.SplitAfterSeq(text(f, now[f]), "COMMIT\n") {
			if table != "" {
				parts = append(parts, Input{f, table})
			}
		}
	}
	return parts
}

// inSession does something in the namespace, locked.
func (s site) inSession(t *testing.T, do func(*session) error) {
	t.Helper()
	if err := s.Do(func() error {
		in, err := s.b.begin(t.Context())
		if err != nil {
			return err
		}
		defer in.end()
		return do(in)
	}); err != nil {
		t.Fatal(err)
	}
}

func (s site) listing(t *testing.T) (have map[ruleset.Family]listing) {
	t.Helper()
	s.inSession(t, func(in *session) (err error) { have, err = in.read(t.Context()); return err })
	return have
}

// wanted is what stands in the kernel for a Ruleset.
func (s site) wanted(t *testing.T, rs ruleset.Ruleset) (want map[ruleset.Family]program) {
	t.Helper()
	s.inSession(t, func(in *session) (err error) {
		if want, err = in.compile(rs); err != nil {
			return err
		}
		for f, p := range want {
			if want[f], err = in.remember(t.Context(), p); err != nil {
				return err
			}
		}
		return nil
	})
	return want
}

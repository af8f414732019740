//go:build linux

package dataplane

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestArrive: whether a connection is captured is seen, in each family by itself, by one who has no privilege.
func TestArrive(t *testing.T) {
	outside4, outside6 := netip.MustParseAddrPort("192.0.2.2:1404"), netip.MustParseAddrPort("[2001:db8::2]:1404")
	proxy4, proxy6 := netip.MustParseAddrPort("0.0.0.0:15001"), netip.MustParseAddrPort("[::]:15001")
	for _, test := range []struct {
		name           string
		families       intercept.Families // "": no rules
		captured4, is6 bool
	}{
		{"no rules", "", false, false},
		{"both", intercept.FamiliesDual, true, true},
		{"IPv4", intercept.FamiliesIPv4, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewT(t, netlab.Options{})
			pod := Pod{NetNS: lab.Pod.Path()}
			if test.families != "" {
				c := intercept.Default()
				c.Families = test.families
				if _, err := pod.Apply(t.Context(), c); err != nil {
					t.Fatal(err)
				}
			}
			for _, way := range []struct {
				listen, to netip.AddrPort
				captured   bool
			}{{proxy4, outside4, test.captured4}, {proxy6, outside6, test.is6}} {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				err := pod.Arrive(ctx, way.listen, way.to)
				_, astray := errors.AsType[AstrayError](err)
				if way.captured != (err == nil) || !way.captured && !astray {
					t.Errorf("to %s: %v", way.to, err)
				}
			}
		})
	}
}

// TestArriveNowhere: it ends with its context, and says where nobody could listen.
func TestArriveNowhere(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	pod := Pod{NetNS: lab.Pod.Path()}
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	if err := pod.Arrive(t.Context(), netip.MustParseAddrPort("0.0.0.0:15001"), netip.MustParseAddrPort("192.0.2.2:80")); err == nil {
		t.Error("two listen at one port")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := pod.Arrive(gone, netip.MustParseAddrPort("0.0.0.0:1"), netip.MustParseAddrPort("192.0.2.2:80")); err == nil {
		t.Error("it goes on without its context")
	}
}

package dataplane

import (
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestVerify: each thing that can be amiss is found, and named.
func TestVerify(t *testing.T) {
	for _, backend := range concrete() {
		t.Run(string(backend), func(t *testing.T) {
			needPrograms(t)
			lab := netlab.NewT(t, netlab.Options{})
			target := Pod{NetNS: lab.Pod.Path(), Backend: backend}
			c := intercept.Default()
			c.DNS.Mode = intercept.DNSAll
			c.Proxy.GIDs = nil

			// failing returns what is not OK.
			failing := func() string {
				t.Helper()
				verdicts, err := target.Verify(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				if len(verdicts) != 1+2*(1+1+2)+2 {
					t.Errorf("%d verdicts: %+v", len(verdicts), verdicts)
				}
				var b strings.Builder
				for _, v := range verdicts {
					if !v.OK {
						b.WriteString(v.What + ": " + v.Found + "\n")
					}
				}
				return b.String()
			}
			expect := func(when string, count int, parts ...string) {
				t.Helper()
				got := failing()
				for _, part := range parts {
					if !strings.Contains(got, part) {
						t.Errorf("%s: %q is missing of\n%s", when, part, got)
					}
				}
				if n := strings.Count(got, "\n"); n != count {
					t.Errorf("%s: %d things amiss, want %d:\n%s", when, n, count, got)
				}
			}
			// The peer has every address: that somebody answers proves nothing.
			expect("nothing there", 11, "rules: not intercepted", "outbound proxy port, IPv6 15001: nobody listens at [::1]:15001",
				"DNS port, UDP, IPv4 15053: nobody", "a connection to 192.0.2.1:80: not captured")
			if _, err := target.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			expect("no sidecar", 10, "inbound proxy port, IPv4 15006: nobody", "a connection to [2001:db8::1]:80: captured, but not accepted (connection refused)")
			other, err := lab.StartSidecar(netlab.SidecarConfig{Owner: &intercept.Owner{UID: 7, GID: 7}})
			if err != nil {
				t.Fatal(err)
			}
			expect("another user", 4, "user 7 listens at 127.0.0.1:15053, who is not the proxy (1337)")
			other.Close()
			if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
				t.Fatal(err)
			}
			expect("a sidecar", 0)
			changed := c
			changed.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
			if _, err := target.Apply(t.Context(), changed); err != nil {
				t.Fatal(err)
			}
			expect("other rules", 1, "rules: ", "differences, the first: ", "mesh-init apply")
		})
	}
}

// TestVerifyOneFamily: where the other family is rejected nobody has to listen
// for it.
func TestVerifyOneFamily(t *testing.T) {
	for families, other := range map[intercept.Families]string{
		intercept.FamiliesIPv4: "IPv6",
		intercept.FamiliesIPv6: "IPv4",
	} {
		t.Run(string(families), func(t *testing.T) {
			lab := netlab.NewT(t, netlab.Options{})
			pod := Pod{NetNS: lab.Pod.Path()}
			c := intercept.Default()
			c.DNS.Mode = intercept.DNSAll
			c.Families, c.OtherFamily = families, intercept.TreatmentReject
			if _, err := pod.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
				t.Fatal(err)
			}
			verdicts, err := pod.Verify(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			if len(verdicts) != 1+(1+1+2)+1 {
				t.Errorf("%d verdicts", len(verdicts))
			}
			for _, v := range verdicts {
				if !v.OK || strings.Contains(v.What, other) {
					t.Errorf("%+v", v)
				}
			}
		})
	}
}

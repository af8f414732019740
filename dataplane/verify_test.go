//go:build linux

package dataplane

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestVerify: each thing that can be wrong is found, and named.
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
					t.Errorf("%s: %d things wrong, want %d:\n%s", when, n, count, got)
				}
			}
			// The peer has every address: that somebody answers proves nothing.
			expect("nothing there", 11, "rules: not intercepted",
				"outbound proxy port, IPv6 15001: nobody listens at [::1]:15001",
				"DNS port, UDP, IPv4 15053: nobody", "a connection to 192.0.2.1:80: not captured")
			if _, err := target.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			expect("no sidecar", 10, "inbound proxy port, IPv4 15006: nobody",
				"a connection to [2001:db8::1]:80: captured, but not accepted (connection refused)")
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

// TestVerifyFamilies: who listens at :: serves IPv4 as the socket says.
func TestVerifyFamilies(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	pod, c := Pod{NetNS: lab.Pod.Path()}, intercept.Default()
	if _, err := pod.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for v6Only, want := range [][]string{{"IPv4", "IPv6"}, {"IPv6"}} {
		fd, err := lab.Pod.Socket(unix.AF_INET6, unix.SOCK_STREAM, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v6Only),
			unix.Bind(fd, &unix.SockaddrInet6{Port: 15001}), unix.Listen(fd, 8))
		if err != nil {
			t.Fatal(err)
		}
		verdicts, err := pod.Verify(t.Context(), c)
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			t.Fatal(err)
		}
		var served []string
		for _, v := range verdicts {
			if family, is := strings.CutPrefix(v.What, "outbound proxy port, "); is && v.OK {
				served = append(served, strings.TrimSuffix(family, " 15001"))
			}
		}
		if strings.Join(served, " ") != strings.Join(want, " ") {
			t.Errorf("IPV6_V6ONLY %d: %v served, want %v: %+v", v6Only, served, want, verdicts)
		}
	}
}

// TestVerifyWithoutSockDiag: where nobody can tell who listens, that is said, and
// the rest is verified.
func TestVerifyWithoutSockDiag(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	p := surroundings{refusals: []refusal{noSockDiag()}}.start(t)
	pod, c := Pod{NetNS: lab.Pod.Path()}, intercept.Default()
	for _, verb := range []string{"apply", "verify"} {
		r, err := p.ask(request{Verb: verb, Pod: pod, Config: &c})
		if err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
		for _, v := range r.Verdicts {
			listens := strings.Contains(v.What, "proxy port")
			if v.OK == listens || strings.Contains(v.Found, "CONFIG_INET_DIAG") != listens {
				t.Errorf("%+v", v)
			}
		}
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

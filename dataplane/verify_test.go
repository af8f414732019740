//go:build linux

package dataplane

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/verify"
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
				report, err := target.Verify(t.Context(), c)
				if err != nil && !errors.Is(err, intercept.ErrNotIntercepted) {
					t.Fatal(err)
				}
				var b strings.Builder
				for _, v := range report.Verdicts {
					if v.Verdict != verify.OK {
						b.WriteString(string(v.Verdict) + ": " + v.String() + "\n")
					}
				}
				if report.Verdict == verify.OK != (b.Len() == 0) {
					t.Errorf("%s, with\n%s", report.Verdict, b.String())
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
				if n := strings.Count(got, "\n"); count > 0 && n != count {
					t.Errorf("%s: %d things wrong, want %d:\n%s", when, n, count, got)
				}
			}
			expect("nothing there", 1, "rules: not intercepted")
			if _, err := target.Apply(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			expect("no sidecar", 8, "a client's connection, IPv4: ", "nobody listens at 10.244.0.5:15006",
				"nobody listens at [::1]:15001", "nobody listens at 127.0.0.1:15053")
			other, err := lab.StartSidecar(netlab.SidecarConfig{Owner: &intercept.Owner{UID: 7, GID: 7}})
			if err != nil {
				t.Fatal(err)
			}
			expect("another user", 10, "user 7, group 7", "is not the proxy (user 1337)")
			other.Close()
			if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
				t.Fatal(err)
			}
			if got := failing(); got != "" {
				t.Errorf("a sidecar: %s", got)
			}
			changed := c
			changed.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
			if _, err := target.Apply(t.Context(), changed); err != nil {
				t.Fatal(err)
			}
			expect("other rules", 1, "rules: ", ", and ", " more; mesh-init check names all")
		})
	}
}

// TestVerifyLeaving: what another discards after all that a packet meets here, as it leaves by a device, is not proven to
// leave.
func TestVerifyLeaving(t *testing.T) {
	netlab.RequireProgram(t, "nft")
	lab := netlab.NewT(t, netlab.Options{})
	pod, c := Pod{NetNS: lab.Pod.Path(), Backend: BackendNFT}, intercept.Default()
	if _, err := pod.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		rule string
		want verify.Word
	}{{"tcp dport 80 accept", verify.OK}, {"tcp dport 80 drop", verify.NotProven}} {
		run(t, pod.NetNS, "nft", "add table netdev other; flush table netdev other; "+
			"add chain netdev other leaving { type filter hook egress device eth0 priority 0; }; "+
			"add rule netdev other leaving "+tt.rule)
		report, err := pod.Verify(t.Context(), c)
		if err != nil || report.Verdict != tt.want {
			t.Errorf("%s: %s, %v", tt.rule, report.Verdict, err)
		}
		named := slices.ContainsFunc(report.Verdicts, func(v verify.Verdict) bool {
			return v.What == "what leaves the pod" && strings.Contains(v.Found, "chain leaving of table netdev other")
		})
		if named != (tt.want != verify.OK) {
			t.Errorf("%s: %+v", tt.rule, report.Verdicts)
		}
	}
}

// TestVerifySlowly: where it takes long to read what is counted, conntrack has forgotten the first datagrams at the end. They
// have left all the same.
func TestVerifySlowly(t *testing.T) {
	needPrograms(t)
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	pod, c := Pod{NetNS: lab.Pod.Path(), Backend: BackendIPTablesLegacy}, intercept.Default()
	if _, err := pod.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := lab.Pod.Do(func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", []byte("4"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	slow := t.TempDir()
	for _, name := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		path, err := exec.LookPath(name)
		if err == nil {
			err = os.WriteFile(slow+"/"+name, []byte("#!/bin/sh\nsleep 0.15\nexec "+path+" \"$@\"\n"), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", slow+":"+os.Getenv("PATH"))
	begin := time.Now()
	report, err := pod.Verify(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 5*time.Second {
		t.Fatalf("it took %s: the test proves nothing", took)
	}
	for _, v := range report.Verdicts {
		if v.Verdict != verify.OK && strings.HasPrefix(v.What, "UDP") {
			t.Errorf("%s: %s", v.Verdict, v)
		}
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
		report, err := pod.Verify(t.Context(), c)
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			t.Fatal(err)
		}
		var served []string
		for _, v := range report.Verdicts {
			family, is := strings.CutPrefix(v.What, "an app's connection, ")
			// Nobody accepts: whose it is nobody can tell.
			if is && strings.Contains(v.Found, "accepted") {
				served = append(served, family)
			}
		}
		if strings.Join(served, " ") != strings.Join(want, " ") {
			t.Errorf("IPV6_V6ONLY %d: %v served, want %v: %+v", v6Only, served, want, report)
		}
	}
}

// TestOlderWithoutSockDiag: without sock_diag, too, a connection goes on that is older than the rules.
func TestOlderWithoutSockDiag(t *testing.T) {
	for _, b := range Backends() {
		t.Run(string(b), func(t *testing.T) {
			needPrograms(t)
			lab := netlab.NewT(t, netlab.Options{})
			conn, got, err := lab.Dial(netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("203.0.113.10:80")})
			if err != nil || conn == nil {
				t.Fatal(got, err)
			}
			defer conn.Close()
			p := surroundings{refusals: []refusal{noSockDiag()}}.start(t)
			c := intercept.Default()
			_, err = p.ask(request{Verb: "apply", Pod: Pod{NetNS: lab.Pod.Path(), Backend: b}, Config: &c})
			if err != nil {
				t.Fatal(err)
			}
			const said = "still there"
			echo := make([]byte, len(said))
			_, err = conn.Write([]byte(said))
			if err = errors.Join(err, conn.SetDeadline(time.Now().Add(10*time.Second))); err == nil {
				_, err = io.ReadFull(conn, echo)
			}
			if err != nil || string(echo) != said {
				t.Errorf("%q, %v", echo, err)
			}
		})
	}
}

// TestVerifyWithoutSockDiag: without sock_diag verify knows who listens by /proc and by what arrives.
func TestVerifyWithoutSockDiag(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	for _, v := range verdictsWithoutSockDiag(t, lab) {
		if v.Verdict != verify.OK {
			t.Errorf("%s: %s", v.Verdict, v)
		}
	}
}

// verdictsWithoutSockDiag applies the default configuration and verifies it, where sockets cannot be asked for.
func verdictsWithoutSockDiag(t *testing.T, lab *netlab.Lab) (all []verify.Verdict) {
	t.Helper()
	p := surroundings{refusals: []refusal{noSockDiag()}}.start(t)
	pod, c := Pod{NetNS: lab.Pod.Path()}, intercept.Default()
	for _, verb := range []string{"apply", "verify"} {
		r, err := p.ask(request{Verb: verb, Pod: pod, Config: &c})
		if err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
		all = append(all, r.Verified.Verdicts...)
	}
	return all
}

// TestVerifyWithoutSockDiagLate: a proxy that has not been scheduled for a while is known by what it sends in the end.
func TestVerifyWithoutSockDiagLate(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	for _, port := range []int{15001, 15006} {
		for at, domain := range map[unix.Sockaddr]int{
			&unix.SockaddrInet4{Port: port}: unix.AF_INET, &unix.SockaddrInet6{Port: port}: unix.AF_INET6,
		} {
			acceptLate(t, lab, domain, at)
		}
	}
	for _, v := range verdictsWithoutSockDiag(t, lab) {
		if strings.Contains(v.Found, "could not be found out") {
			t.Error(v)
		}
	}
}

// acceptLate is a proxy that accepts a third of a second after a connection has come, and hangs up.
func acceptLate(t *testing.T, lab *netlab.Lab, domain int, at unix.Sockaddr) {
	t.Helper()
	const late = 333 // milliseconds
	proxy := intercept.Owner{UID: 1337, GID: 1337}
	fd, err := lab.Pod.Socket(domain, unix.SOCK_STREAM, &proxy)
	if err == nil && domain == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err = errors.Join(err, unix.Bind(fd, at), unix.Listen(fd, 64)); err != nil {
		t.Fatal(err)
	}
	accept := func() error { // a socket belongs to whoever accepts it
		for {
			conn, _, err := unix.Accept(fd)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return nil
			case err != nil:
				return err
			}
			if err := unix.Close(conn); err != nil {
				return err
			}
		}
	}
	ended := make(chan error)
	go func() {
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if err == nil {
				_, _ = unix.Poll(nil, late)
				err = netlab.As(proxy, accept)
			}
			switch {
			case errors.Is(err, unix.EINVAL): // it listens no more
				ended <- nil
				return
			case err != nil && !errors.Is(err, unix.EINTR):
				ended <- err
				return
			}
		}
	}()
	t.Cleanup(func() {
		if err := errors.Join(unix.Shutdown(fd, unix.SHUT_RDWR), <-ended, unix.Close(fd)); err != nil {
			t.Error(err)
		}
	})
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
			report, err := pod.Verify(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			captured := 0
			for _, v := range report.Verdicts {
				if strings.Contains(v.Found, "redirect(") {
					captured++
				}
				if v.Verdict != verify.OK || strings.Contains(v.What, other) && strings.Contains(v.Found, "redirect(") {
					t.Errorf("%+v", v)
				}
			}
			if captured < 1+1+2 {
				t.Errorf("%d captured: %+v", captured, report)
			}
		})
	}
}

package relay

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/podspec/probes"
)

// TestDial: the pod's address first, localhost only where nothing listens there,
// and a reason that names both.
func TestDial(t *testing.T) {
	d := newDialer(netip.MustParseAddr("127.0.0.2"), []netip.Addr{netip.MustParseAddr("::6"),
		netip.MustParseAddr("127.0.0.6")})
	for _, where := range []string{"127.0.0.2", "127.0.0.1"} {
		l, err := net.Listen("tcp", where+":0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(l.Addr().String())
		conn, err := d.dial(t.Context(), port)
		if err != nil {
			t.Fatal(err)
		}
		if from, to := conn.LocalAddr().String(), conn.RemoteAddr().String(); to != l.Addr().String() ||
			!strings.HasPrefix(from, "127.0.0.6:") {
			t.Errorf("%s: from %s to %s", where, from, to)
		}
		conn.Close()
		l.Close()
		want := "127.0.0.2:" + port + ": connect: connection refused; 127.0.0.1:" + port + ": connect: connection refused"
		if _, err := d.dial(t.Context(), port); err == nil || err.Error() != want || !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%v; want %s", err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.dial(ctx, "1"); !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("%v", err)
	}
	// A source that the pod does not have.
	d.source = netip.MustParseAddr("192.0.2.6")
	if _, err := d.dial(t.Context(), "1"); err == nil || !strings.Contains(err.Error(), "ip address add 192.0.2.6/32 dev lo") {
		t.Errorf("%v", err)
	}
}

// TestLog: an outcome is logged when it changes, on one line.
func TestLog(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := netip.MustParseAddrPort(l.Addr().String()).Port()
	var log bytes.Buffer
	r := New(Settings{Pod: netip.MustParseAddr("127.0.0.1"), Log: slog.New(slog.NewTextHandler(&log, nil)),
		Probes: probes.Set{Probes: []probes.Probe{{Container: "app", Kind: probes.Liveness, TimeoutSeconds: 5,
			Handler: probes.TCPSocket, Port: port}}}})
	ask := func(status int) {
		t.Helper()
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "/probe/app/liveness", nil))
		if w.Code != status {
			t.Errorf("%d, want %d: %s", w.Code, status, w.Body)
		}
	}
	ask(200)
	ask(200)
	l.Close()
	ask(503)
	ask(503)
	if l, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(int(port))); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ask(200)
	for text, want := range map[string]int{`msg="probe succeeds"`: 2, `msg="probe fails"`: 1, `refused; 127`: 1} {
		if n := strings.Count(log.String(), text); n != want {
			t.Errorf("%q is there %d times, want %d:\n%s", text, n, want, &log)
		}
	}
}

// TestAgent: what a client says of itself is passed on only where kubelet would say it.
func TestAgent(t *testing.T) {
	for _, tt := range []struct {
		agent string
		kind  probes.Kind
		want  string
	}{
		{"kube-probe/1.37", probes.Liveness, "kube-probe/1.37"},
		{"kube-probe/1.37+", probes.Liveness, "kube-probe/1.37+"},
		{"kube-lifecycle/1.37", probes.PreStop, "kube-lifecycle/1.37"},
		{"kube-probe/1.37\r\nX: y", probes.Liveness, "kube-probe/mesh-probe"},
		{"curl/8", probes.PreStop, "kube-lifecycle/mesh-probe"},
		{"", probes.Startup, "kube-probe/mesh-probe"},
	} {
		if got := agentOf(tt.agent, tt.kind); got != tt.want {
			t.Errorf("%q: %q", tt.agent, got)
		}
	}
	if got := reason(errors.New("a\x1b[2J\n" + strings.Repeat("é", 500))); len(got) > 520 || strings.ContainsAny(got, "\x1b\n") {
		t.Errorf("%q", got)
	}
}

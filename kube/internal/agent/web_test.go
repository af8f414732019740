package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// web serves a handler until the test is over, and returns its address.
func web(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serveWeb(ctx, l, h) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.DeadlineExceeded) { // silent ones are not waited for
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// TestWebFlood: one peer that opens all it can, or sends too much, keeps no other
// from an answer.
func TestWebFlood(t *testing.T) {
	at := web(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { say(w, nil) }))
	from := func(source string) net.Dialer {
		return net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 0))}
	}
	flooder := from("127.0.0.2")
	closed := make(chan struct{}, 100)
	for range 100 {
		conn, err := flooder.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go func() {
			_, _ = conn.Read(make([]byte, 1))
			closed <- struct{}{}
		}()
	}
	for range 100 - 32 { // at once, not when they have said nothing for too long
		<-closed
	}
	other := from("127.0.0.1")
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: other.DialContext}}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://" + at + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if string(text) != "ok\n" {
		t.Errorf("%q", text)
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+at, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X", strings.Repeat("x", 64<<10))
	if res, err = client.Do(req); err == nil {
		if res.Body.Close(); res.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("64 KiB of headers: %s", res.Status)
		}
	}
}

// TestCrowd: all together have a limit, too, and who has gone has none.
func TestCrowd(t *testing.T) {
	c := &crowd{each: 2, most: 3, open: map[netip.Prefix]int{}}
	a, b := netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("fd00::/64")
	for i, tt := range []struct {
		peer  netip.Prefix
		leave bool
		want  bool
	}{{a, false, true}, {a, false, true}, {a, false, false}, {b, false, true}, {b, false, false}, {a, true, true},
		{b, false, true}, {b, true, true}, {b, true, true}, {a, false, true}} {
		if tt.leave {
			c.exit(tt.peer)
		} else if got := c.enter(tt.peer); got != tt.want {
			t.Errorf("%d: %v", i, got)
		}
	}
	if c.total != 2 || len(c.open) != 1 {
		t.Errorf("%+v", c)
	}
	for from, want := range map[string]string{"10.0.0.1:5": "10.0.0.1/32", "[::ffff:10.0.0.1]:5": "10.0.0.1/32",
		"[fd00::1:2:3:4]:5": "fd00::/64", "[fe80::1%eth0]:5": "fe80::/64"} {
		if got := peerOf(at{remote: from}).String(); got != want {
			t.Errorf("%s: %s, want %s", from, got, want)
		}
	}
}

// TestWebSays: an error is a line, and moves no cursor.
func TestWebSays(t *testing.T) {
	at := web(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		say(w, errors.Join(errors.New("a\x1b[2J\nb"), errors.New("c\u009b")))
	}))
	res, err := http.Get("http://" + at)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if text, err := io.ReadAll(res.Body); err != nil || string(text) != `a\x1b[2J\nb`+"\n"+`c\u009b`+"\n" {
		t.Errorf("%q, %v", text, err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// at is a connection from somewhere.
type at struct {
	net.Conn
	remote string
}

func (a at) RemoteAddr() net.Addr { return address(a.remote) }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

package web

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

// served serves a handler until the test is over, and returns its address.
func served(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ServeSmall(ctx, l, h) }()
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
	at := served(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { say(w, nil) }))
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

// TestWebSays: an error is a line, and moves no cursor.
func TestWebSays(t *testing.T) {
	at := served(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
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

package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// handler serves health and metrics. /healthz says that the process lives;
// /readyz, whether the next pod can be intercepted, or what is in the way.
func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { say(w, a.Ready()) })
	mux.Handle("GET /metrics", a.metrics.Handler())
	return mux
}

func say(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok"
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		var lines []string
		for _, e := range strict.Flatten(err) {
			lines = append(lines, strict.OneLine(e.Error()))
		}
		text = strings.Join(lines, "\n")
	}
	_, _ = io.WriteString(w, text+"\n") // who asked has gone
}

// serveWeb serves until ctx is done, and lets requests end.
func serveWeb(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(&crowd{Listener: l, each: 32, most: 512, open: map[netip.Prefix]int{}}) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	err := s.Shutdown(last)
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// crowd is a listener that closes connections that are too many: of one peer, so that others have room, and of all. The
// address is the node's, and every pod of the cluster may reach it.
type crowd struct {
	net.Listener
	each, most int

	mu    sync.Mutex
	open  map[netip.Prefix]int // by peer
	total int
}

// Accept implements [net.Listener].
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if peer := peerOf(conn); c.enter(peer) {
			return &guest{Conn: conn, leave: sync.OnceFunc(func() { c.exit(peer) })}, nil
		}
		_ = conn.Close() // it has not been used
	}
}

// peerOf is the address of who connects. Of IPv6 a peer has as many as it likes, mostly of one /64.
func peerOf(conn net.Conn) netip.Prefix {
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Prefix{}
	}
	addr := at.Addr().Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(addr, bits).Masked()
}

func (c *crowd) enter(peer netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total >= c.most || c.open[peer] >= c.each {
		return false
	}
	c.total++
	c.open[peer]++
	return true
}

func (c *crowd) exit(peer netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if c.open[peer]--; c.open[peer] == 0 {
		delete(c.open, peer)
	}
}

// guest is one connection of a crowd.
type guest struct {
	net.Conn
	leave func()
}

// Close implements [net.Conn].
func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}

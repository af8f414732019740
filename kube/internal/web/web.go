// Package web serves HTTP to everybody: a peer that opens all the connections it
// can keeps no other from an answer.
package web

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Limits are those of a server's connections.
type Limits struct {
	// Each is how many connections one peer may have, and Most all together.
	Each, Most int
	// End is how long requests may take to end once the server is to end.
	End time.Duration
}

// Serve serves until ctx is done, and lets requests end. The error is the
// listener's, or [context.DeadlineExceeded] if requests did not end in time; their
// connections are closed then.
func Serve(ctx context.Context, l net.Listener, s *http.Server, limits Limits) error {
	ended := make(chan error, 1)
	go func() {
		ended <- s.Serve(&crowd{Listener: l, each: limits.Each, most: limits.Most, open: map[netip.Prefix]int{}})
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), limits.End)
	defer cancel()
	err := s.Shutdown(last)
	if err != nil {
		_ = s.Close() // what is left is not waited for
	}
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

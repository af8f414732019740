package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// dialer reaches the app's ports from inside the pod.
type dialer struct {
	// pod is the address at which kubelet probes: the pod's first.
	pod netip.Addr
	// source is the passthrough source of the pod address's family. Connections from
	// it are not captured, so that they reach the app and not the proxy. Not valid:
	// none.
	source netip.Addr
}

func newDialer(pod netip.Addr, sources []netip.Addr) dialer {
	d := dialer{pod: pod}
	if i := slices.IndexFunc(sources, func(a netip.Addr) bool { return a.Is4() == pod.Is4() }); i >= 0 {
		d.source = sources[i]
	}
	return d
}

// dial connects to a port at the pod's address, as kubelet does; or at localhost
// where nothing listens at the pod's address, for an app that is behind its proxy
// only. An app that does not answer at the pod's address is not asked again.
func (d dialer) dial(ctx context.Context, port string) (net.Conn, error) {
	conn, err := d.from(ctx, d.source, d.pod, port)
	noSource := errors.Is(err, unix.EADDRNOTAVAIL)
	if noSource {
		err = fmt.Errorf("%w: the pod has no address %s: ip address add %s/%d dev lo adds it", err, d.source, d.source,
			d.source.BitLen())
	}
	if err == nil || !noSource && !errors.Is(err, unix.ECONNREFUSED) {
		return conn, err
	}
	source := d.source
	if noSource {
		source = netip.Addr{}
	}
	conn, second := d.from(ctx, source, loopback(d.pod), port)
	if second != nil {
		return nil, fmt.Errorf("%w; %w", err, second)
	}
	return conn, nil
}

func loopback(family netip.Addr) netip.Addr {
	if family.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// from connects without Go's own second attempts: one address, one connection.
func (d dialer) from(ctx context.Context, source, to netip.Addr, port string) (net.Conn, error) {
	own := net.Dialer{KeepAlive: -1, Control: linger}
	if source.IsValid() {
		own.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
	}
	at := net.JoinHostPort(to.String(), port)
	conn, err := own.DialContext(ctx, "tcp", at)
	if op, ok := errors.AsType[*net.OpError](err); ok { // which also names the source
		err = fmt.Errorf("%s: %w", at, op.Err)
	}
	return conn, err
}

// linger makes an ended connection leave TIME-WAIT after a second, as kubelet's
// do: there is a new one for each probe (pkg/probe/dialer_others.go).
func linger(_, _ string, c syscall.RawConn) error {
	var err error
	if failed := c.Control(func(fd uintptr) {
		err = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 1})
	}); failed != nil {
		return failed
	}
	return err
}

// address is the one that URLs name: the pod's.
func (d dialer) address(port uint16) string {
	return net.JoinHostPort(d.pod.String(), strconv.Itoa(int(port)))
}

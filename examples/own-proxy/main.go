//go:build linux

// Command own-proxy is a small sidecar proxy: it takes what the rules send to it, and passes it on to where it was
// going. It is an example: what a proxy of one's own has to do, and, in main_test.go, how to prove that it does.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// The ports to which the rules send connections, and where a socket is called: each family has its own.
var listeners = map[string]func(netip.AddrPort) netip.AddrPort{
	"0.0.0.0:15001": outbound,
	"[::]:15001":    outbound,
	"0.0.0.0:15006": inbound,
	"[::]:15006":    inbound,
}

// outbound says whom to call for an app: whom the app called.
func outbound(original netip.AddrPort) netip.AddrPort { return original }

// inbound says whom to call for a client: the app, by loopback, where no call of the proxy's is captured.
func inbound(original netip.AddrPort) netip.AddrPort {
	if original.Addr().Is4() {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), original.Port())
	}
	return netip.AddrPortFrom(netip.IPv6Loopback(), original.Port())
}

func main() {
	log.SetFlags(0)
	failed := make(chan error)
	for addr, whom := range listeners {
		family := "tcp4"
		if addr[0] == '[' {
			family = "tcp6"
		}
		// Not with Multipath TCP, by which Go listens if nothing is said: the kernel then knows no original destination.
		var listen net.ListenConfig
		listen.SetMultipathTCP(false)
		listener, err := listen.Listen(context.Background(), family, addr)
		if err != nil {
			log.Fatal(err)
		}
		go func() { failed <- serve(listener.(*net.TCPListener), whom) }()
	}
	fmt.Println("ready")
	log.Fatal(<-failed)
}

func serve(listener *net.TCPListener, whom func(netip.AddrPort) netip.AddrPort) error {
	for {
		conn, err := listener.AcceptTCP()
		if err != nil {
			return err
		}
		go func() {
			if err := errors.Join(relay(conn, whom), conn.Close()); err != nil {
				log.Print(err)
			}
		}()
	}
}

// relay passes a connection on.
func relay(client *net.TCPConn, whom func(netip.AddrPort) netip.AddrPort) error {
	original, err := originalDst(client)
	if err != nil {
		return fmt.Errorf("%s: original destination: %w", client.RemoteAddr(), err)
	}
	if original == client.LocalAddr().(*net.TCPAddr).AddrPort() {
		return fmt.Errorf("%s called the proxy itself", client.RemoteAddr()) // who would be called for ever
	}
	to := whom(original)
	conn, err := net.Dial("tcp", to.String())
	if err != nil {
		return err
	}
	server := conn.(*net.TCPConn)
	log.Printf("%s to %s by %s", client.RemoteAddr(), original, server.LocalAddr())

	sent := make(chan error)
	go func() { sent <- pass(server, client) }()
	return errors.Join(pass(client, server), <-sent, server.Close())
}

// pass passes on all that one side says, and that it has no more to say.
func pass(to, from *net.TCPConn) error {
	_, err := io.Copy(to, from)
	done := to.CloseWrite()
	if errors.Is(done, syscall.ENOTCONN) { // it has hung up
		done = nil
	}
	return errors.Join(err, done)
}

// originalDst asks the kernel where a connection was going before the rules sent it here.
func originalDst(conn *net.TCPConn) (to netip.AddrPort, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return to, err
	}
	local := conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr()
	// Package unix has no call for this option. Those for others do, whose results have room for the address.
	const option = unix.SO_ORIGINAL_DST // and IP6T_SO_ORIGINAL_DST
	failed := raw.Control(func(fd uintptr) {
		if local.Is4() {
			var m *unix.IPv6Mreq
			if m, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, option); err == nil {
				sin := m.Multiaddr // struct sockaddr_in: family, port, address
				to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(sin[4:8])), binary.BigEndian.Uint16(sin[2:]))
			}
			return
		}
		var m *unix.IPv6MTUInfo
		if m, err = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, option); err == nil {
			port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, m.Addr.Port))
			to = netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr), port)
		}
	})
	return to, errors.Join(failed, os.NewSyscallError("getsockopt", err))
}

//go:build linux && gvisor

package gvisor

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// role is what a process does that is not the test itself.
func role(name string, args []string) error {
	switch name {
	case "serve": // NAME PORT..., and dns for the ports of the resolver
		for _, port := range args[1:] {
			var err error
			if port == "dns" {
				err = resolver()
			} else {
				err = serve(args[0], port)
			}
			if err != nil {
				return err
			}
		}
		fmt.Println("ready")
		_, err := io.Copy(io.Discard, os.Stdin) // until whoever started it has ended
		return err
	case "dial": // NETWORK ADDRESS [SOURCE]
		said, err := dial(args[0], args[1])
		if err != nil {
			return err
		}
		fmt.Print(said)
		return nil
	}
	return fmt.Errorf("nobody is called %q", name)
}

// serve accepts in both families, and says who it is, at which port, and where the connection was to go.
func serve(name, port string) error {
	for _, network := range []string{"tcp4", "tcp6"} {
		l, err := net.Listen(network, ":"+port)
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					fmt.Fprintf(conn, "%s %s %s\n", name, port, original(conn.(*net.TCPConn)))
					// Until the client has seen it: gVisor shows who has accepted no longer than the connection lasts.
					_, _ = io.Copy(io.Discard, conn)
				}()
			}
		}()
	}
	return nil
}

// original is where a connection was to go (SO_ORIGINAL_DST), if not here.
func original(conn *net.TCPConn) string {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err.Error()
	}
	text := "-"
	_ = raw.Control(func(fd uintptr) {
		if to, ok := netlab.OriginalDst(int(fd), conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()); ok {
			text = to.String()
		}
	})
	if text == conn.LocalAddr().String() {
		return "-"
	}
	return text
}

// resolver answers every question with 127.0.0.1, over UDP and TCP, from the addresses at which it is asked.
func resolver() error {
	for _, addr := range []string{"127.0.0.1:15053", "[::1]:15053"} {
		u, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(answer(b[:n]), from)
			}
		}()
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					for {
						head := make([]byte, 2)
						if _, err := io.ReadFull(conn, head); err != nil {
							return
						}
						question := make([]byte, binary.BigEndian.Uint16(head))
						if _, err := io.ReadFull(conn, question); err != nil {
							return
						}
						said := answer(question)
						_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(said))), said...))
					}
				}()
			}
		}()
	}
	return nil
}

// answer answers the question of a message (RFC 1035).
func answer(question []byte) []byte {
	end := 12
	for end < len(question) && question[end] != 0 {
		end += int(question[end]) + 1
	}
	end = min(end+5, len(question))
	said := append([]byte(nil), question[:end]...)
	copy(said[2:12], []byte{0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0})
	return append(said, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1)
}

// patience is for what has to come.
const patience = 5 * time.Second

// dial returns what a server says, or to a lookup over UDP.
func dial(network, addr string) (string, error) {
	conn, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	b := make([]byte, 2048)
	if network == "udp" {
		question := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 'a', 0, 0, 1, 0, 1}
		if _, err := conn.Write(question); err != nil {
			return "", err
		}
		n, err := conn.Read(b)
		if err != nil || n < 12 {
			return "", fmt.Errorf("%d bytes: %w", n, err)
		}
		return "answered " + strconv.Itoa(int(binary.BigEndian.Uint16(b[6:]))) + "\n", nil
	}
	n, err := conn.Read(b)
	return string(b[:n]), err
}

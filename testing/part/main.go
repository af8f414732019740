//go:build linux

// Command part is everything in the tests of the CNI plugin that is not ours:
// the first plugin of a chain, and what runs in containers and around them. It
// is one static program, so that an image is one file.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getenv("CNI_COMMAND") != "" {
		plugin()
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "pause":
	case len(args) == 1 && args[0] == "init":
		reap()
	case len(args) > 2 && args[0] == "server":
		for _, port := range args[2:] {
			err := error(nil)
			if addr, ok := strings.CutPrefix(port, "udp:"); ok {
				err = serveUDP(args[1], addr)
			} else {
				err = serve(args[1], port)
			}
			if err != nil {
				return err
			}
		}
		fmt.Println("ready")
	case len(args) == 3 && args[0] == "client":
		return client(args[1], args[2])
	default:
		return errors.New("usage: part pause | init | server NAME PORT|udp:ADDRESS:PORT... | client tcp|udp ADDRESS:PORT")
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	<-stop
	return nil
}

// reap buries the orphans of a PID namespace, for ever.
func reap() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	for range children {
		for {
			if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); pid <= 0 && !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
}

// plugin makes nothing, and says that it has made what its entry has as "says".
func plugin() {
	var conf struct {
		Says json.RawMessage `json:"says"`
	}
	if os.Getenv("CNI_COMMAND") == "VERSION" {
		fmt.Println(`{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}`)
		return
	}
	if err := json.NewDecoder(os.Stdin).Decode(&conf); err != nil {
		fmt.Printf(`{"code":6,"msg":%q}`, err)
		os.Exit(1)
	}
	if os.Getenv("CNI_COMMAND") == "ADD" {
		_, _ = os.Stdout.Write(conf.Says)
	}
}

// serve answers over TCP with a line: who it is, its port, and where
// the connection went before it was redirected.
func serve(name, port string) error {
	l, err := net.Listen("tcp", ":"+port)
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
				defer func() { _ = conn.Close() }()
				fmt.Fprintf(conn, "%s %s %s\n", name, port, original(conn))
			}()
		}
	}()
	return nil
}

// serveUDP answers from the address at which it is asked.
func serveUDP(name, addr string) error {
	at, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return err
	}
	u, err := net.ListenUDP("udp", at)
	if err != nil {
		return err
	}
	go func() {
		buffer := make([]byte, 2048)
		for {
			_, from, err := u.ReadFromUDP(buffer)
			if err != nil {
				return
			}
			_, _ = fmt.Fprintf(udp{u, from}, "%s %s udp\n", name, addr)
		}
	}()
	return nil
}

type udp struct {
	*net.UDPConn
	to *net.UDPAddr
}

func (u udp) Write(b []byte) (int, error) { return u.WriteToUDP(b, u.to) }

// original is the destination that the client dialled (SO_ORIGINAL_DST), or "-" if that is here: whether the kernel knows
// that too depends on who else asks conntrack.
func original(conn net.Conn) string {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return "-"
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err.Error()
	}
	text := "-"
	_ = raw.Control(func(fd uintptr) {
		const soOriginalDst = 80
		if a, err := unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, soOriginalDst); err == nil {
			m := a.Multiaddr
			text = netip.AddrPortFrom(netip.AddrFrom4([4]byte(m[4:8])), uint16(m[2])<<8|uint16(m[3])).String()
		}
	})
	if text == conn.LocalAddr().String() {
		return "-"
	}
	return text
}

// client prints what the server says.
func client(network, addr string) error {
	const patience = 5 * time.Second
	conn, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if network == "udp" {
		if _, err := conn.Write([]byte("hello")); err != nil {
			return err
		}
		buffer := make([]byte, 2048)
		n, err := conn.Read(buffer)
		fmt.Print(string(buffer[:n]))
		return err
	}
	_, err = io.Copy(os.Stdout, conn)
	return err
}

//go:build linux

package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// transparentConfig is a file that makes HAProxy a sidecar to which connections come
// with their addresses unchanged, IPv6 ones too: their destination is their socket's
// own address, of which nobody has to be asked. It tells the app both addresses
// in a line before all others (the PROXY protocol).
const transparentConfig = "../../examples/tproxy/haproxy.cfg"

// startTransparentHAProxy starts HAProxy in the lab's pod, as user 1337 with
// the two capabilities that a transparent socket may take (ip(7)). HAProxy 2.6
// gives up its capabilities when it changes its user, so it does not: it has
// that user, and them as ambient ones, from the start.
func startTransparentHAProxy(t *testing.T, lab *netlab.Lab) *sidecar {
	t.Helper()
	config, err := os.ReadFile(transparentConfig)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("haproxy", "-db", "-f", "/dev/stdin")
	cmd.Stdin = opened(t, string(config))
	cmd.SysProcAttr = &syscall.SysProcAttr{AmbientCaps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}}
	return start(t, lab, cmd, "127.0.0.1:15006", "[::1]:15006")
}

// TestTransparentInbound: users who call the app come to HAProxy from their own
// addresses, by which HAProxy logs them and tells the app of them. The app sees
// whom they called, on whatever port. The probe is answered without HAProxy.
func TestTransparentInbound(t *testing.T) {
	program, err := meshInit()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "mesh-init")
	if err := writeProgram(path, program); err != nil {
		t.Fatal(err)
	}
	for _, backend := range []string{"nft", "iptables-nft", "iptables-legacy"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			if backend != "nft" {
				netlab.RequireProgram(t, backend+"-restore")
			}
			lab := netlab.NewT(t, netlab.Options{})
			// For HAProxy to call from it, as with 127.0.0.6.
			inPod(t, lab, "ip", "address", "add", "::6/128", "dev", "lo")
			haproxy := startTransparentHAProxy(t, lab)
			inPod(t, lab, path, "apply", "--inbound-mode", "tproxy", "--backend", backend)

			for pod, users := range map[string][]string{
				"10.244.0.5":  {"10.244.0.1", "203.0.113.9", "172.16.5.6"},
				"fd00:244::5": {"fd00:244::1", "2001:db8::9", "2001:db8:7::6"},
			} {
				for _, port := range []uint16{8080, 80} {
					called := netip.AddrPortFrom(netip.MustParseAddr(pod), port)
					proxyProtocolApp(t, lab, called)
					for _, user := range users {
						f := netlab.Flow{Protocol: intercept.TCP, From: netlab.FromPeer,
							Src: netip.AddrPortFrom(netip.MustParseAddr(user), 0), Dst: called}
						got, own := call(t, lab, f)
						if got.Role != netlab.RoleApp || got.Original != called || got.Client != own || own.Addr() != f.Src.Addr() {
							t.Errorf("%s, whose own address is %s: %s", f, own, got)
						}
						haproxy.awaitLog(t, fmt.Sprintf("inbound%d: %s:%d to %s:%d", intercept.FamilyOf(own.Addr()), own.Addr(),
							own.Port(), called.Addr(), called.Port()))
					}
				}
			}
			straight(t, lab, probe)

			haproxy.kill()
			f := service
			f.Timeout = 200 * time.Millisecond
			if got, err := lab.Send(f); err != nil || got.Fate.Action != intercept.Dropped {
				t.Errorf("%s, without HAProxy: %s, %v", f, got, err)
			}
		})
	}
}

// proxyProtocolApp is an app to which a proxy says who calls whom: in its
// answer, Client and Original are what the proxy says.
func proxyProtocolApp(t *testing.T, lab *netlab.Lab, at netip.AddrPort) {
	t.Helper()
	domain, addr := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port())})
	if at.Addr().Is4() {
		addr.(*unix.SockaddrInet4).Addr = at.Addr().As4()
	} else {
		domain, addr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	fd, err := lab.Pod.Socket(domain, unix.SOCK_STREAM, app)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "app")
	defer socket.Close()
	if err := errors.Join(unix.Bind(fd, addr), unix.Listen(fd, 16)); err != nil {
		t.Fatal(err)
	}
	listener, err := net.FileListener(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it is closed
			}
			go func() {
				defer conn.Close()
				if err := answerProxied(conn, at); err != nil {
					fmt.Fprintln(conn, err) // the caller's error quotes it
				}
			}()
		}
	}()
}

func answerProxied(conn net.Conn, at netip.AddrPort) error {
	lines := bufio.NewReader(conn)
	header, err := lines.ReadString('\n')
	if err != nil {
		return err
	}
	var src, dst string
	var sport, dport uint16
	if _, err := fmt.Sscanf(header, fmt.Sprintf("PROXY TCP%d %%s %%s %%d %%d\r\n", intercept.FamilyOf(at.Addr())), &src,
		&dst, &sport, &dport); err != nil {
		return fmt.Errorf("the first line is %q: %w", header, err)
	}
	client, err1 := netip.ParseAddr(src)
	original, err2 := netip.ParseAddr(dst)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if from := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); from != netip.MustParseAddr("127.0.0.6") &&
		from != netip.MustParseAddr("::6") {
		return fmt.Errorf("called from %s, not from the passthrough source", from)
	}
	if _, err := lines.ReadString('\n'); err != nil {
		return err
	}
	return json.NewEncoder(conn).Encode(netlab.Banner{
		Role: netlab.RoleApp, Port: at.Port(), Local: at,
		Client: netip.AddrPortFrom(client, sport), Original: netip.AddrPortFrom(original, dport),
	})
}

// inPod runs a program in the lab's pod.
func inPod(t *testing.T, lab *netlab.Lab, args ...string) {
	t.Helper()
	netlab.RequireProgram(t, args[0])
	cmd := exec.Command(args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := lab.Pod.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &out)
	}
}

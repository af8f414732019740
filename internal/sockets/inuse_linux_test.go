package sockets

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

func TestCountsNone(t *testing.T) {
	for text, want := range map[string]bool{
		"sockets: used 3\nTCP: inuse 0 orphan 0 tw 0 alloc 7 mem 1\nUDP: inuse 2 mem 0\n": true,
		"TCP: inuse 1 orphan 0 tw 0 alloc 7 mem 1\n":                                      false,
		"TCP: inuse 0 orphan 0 tw 1 alloc 7 mem 1\n":                                      false,
		"TCP: inuse 0 orphan 0 tw\n":                                                      false,
		"TCP: inuse 10\n":                                                                 false,
		"TCP: inuse 0\n":                                                                  true,
		"TCP: used 0\n":                                                                   false,
		"TCP:\n":                                                                          false,
		"UDP: inuse 0 mem 0\n":                                                            false,
		"":                                                                                false,
	} {
		if got := countsNone(text, "TCP:"); got != want {
			t.Errorf("%q: %t", text, got)
		}
	}
}

// TestAnyTCP: each kind of TCP socket that there is in a namespace is known, and none in another.
func TestAnyTCP(t *testing.T) {
	netlab.Require(t)
	any := func(ns *netlab.Namespace) (found, none bool) {
		t.Helper()
		err := ns.Do(func() (err error) {
			none = noneInUse()
			found, err = AnyTCP()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return found, none
	}
	beside := newNamespace(t)
	for name, addr := range map[string]string{"IPv4": "127.0.0.1:80", "IPv6": "[::1]:80"} {
		ns := newNamespace(t)
		if found, none := any(ns); found || !none {
			t.Fatalf("%s: in a new namespace found is %t, none in use %t", name, found, none)
		}
		listener := open(t, ns, unix.SOCK_STREAM, addr, false, 0)
		if err := unix.Listen(listener, 1); err != nil {
			t.Fatal(err)
		}
		if found, _ := any(ns); !found {
			t.Errorf("%s: a listening socket is not found", name)
		}
		sa, err := unix.Getsockname(listener)
		if err != nil {
			t.Fatal(err)
		}
		domain := unix.AF_INET
		if name == "IPv6" {
			domain = unix.AF_INET6
		}
		client, err := ns.Socket(domain, unix.SOCK_STREAM, nil)
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(client), "client") // closed below, before its peer
		if err := unix.SetNonblock(client, false); err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(client, sa); err != nil {
			t.Fatal(err)
		}
		// A connection is there for the client before it is there for the server.
		if err := unix.SetNonblock(listener, false); err != nil {
			t.Fatal(err)
		}
		server, _, err := unix.Accept(listener)
		if err != nil {
			t.Fatal(err)
		}
		// Nobody listens any more: a connection is left.
		if err := unix.Shutdown(listener, unix.SHUT_RDWR); err != nil {
			t.Fatal(err)
		}
		if found, _ := any(ns); !found {
			t.Errorf("%s: a connection is not found", name)
		}
		// Both ends have closed: the one that did so first waits, and no process has it.
		file.Close()
		unix.Close(server)
		for deadline := time.Now().Add(10 * time.Second); ; {
			found, none := any(ns)
			if found && !none {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("%s: a connection that waits to end: found is %t, none in use %t", name, found, none)
				break
			}
		}
		if found, _ := any(beside); found {
			t.Errorf("%s: found in another namespace", name)
		}
	}
}

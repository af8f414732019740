//go:build linux

package nlsock

import (
	"errors"
	"strings"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// links asks for the interfaces of a namespace.
func links(c *netlink.Conn) ([]netlink.Message, error) {
	return c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_GETLINK, Flags: netlink.Request | netlink.Dump},
		Data:   make([]byte, unix.SizeofIfInfomsg),
	})
}

// TestDial: a socket stays in the namespace that it was opened in, hands on what
// the kernel refuses, and hears nobody but the kernel.
func TestDial(t *testing.T) {
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	var c *netlink.Conn
	var stranger int
	err = ns.Do(func() (err error) {
		if stranger, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
			return err
		}
		c, err = Dial(unix.NETLINK_ROUTE, 1<<20)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unix.Close(stranger)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	found, err := links(c)
	if err != nil || len(found) != 1 {
		t.Fatalf("a new namespace has %d interfaces, %v", len(found), err)
	}

	// Another process can send to us if it is root.
	spam, err := netlink.Message{Header: netlink.Header{Length: unix.SizeofNlMsghdr, Type: netlink.Done}}.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendto(stranger, spam, 0,
		&unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: found[0].Header.PID}); err != nil {
		t.Fatal(err)
	}
	if again, err := links(c); err != nil || len(again) != 1 {
		t.Errorf("after a stranger's message: %d interfaces, %v", len(again), err)
	}

	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_DELLINK, Flags: netlink.Request | netlink.Acknowledge},
		Data:   []byte{unix.AF_UNSPEC, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	})
	if !errors.Is(err, unix.ENODEV) {
		t.Errorf("an interface that is not there: %v", err)
	}
}

// TestNoSuchProtocol: what the kernel does not have is an errno.
func TestNoSuchProtocol(t *testing.T) {
	if c, err := Dial(31, 0); !errors.Is(err, unix.EPROTONOSUPPORT) || c != nil {
		t.Errorf("%v, %v", c, err)
	}
}

// TestSplit: any bytes are messages or an error.
func TestSplit(t *testing.T) {
	for _, b := range [][]byte{
		{1}, []byte(strings.Repeat("\xff", 16)), {17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if m, err := split(b); err == nil {
			t.Errorf("%v: %v", b, m)
		}
	}
}

// TestTooMuch: what a namespace's own can make without end is not read to its end.
func TestTooMuch(t *testing.T) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	s := &socket{fd: fd, most: 1 << 20}
	c := netlink.NewConn(s, 0)
	defer c.Close()
	for range 3 { // it begins anew with each request
		if found, err := links(c); err != nil || len(found) == 0 {
			t.Fatalf("%d interfaces, %v", len(found), err)
		}
	}
	s.most = 100
	if _, err := links(c); !errors.Is(err, ErrTooMuch) {
		t.Errorf("%v", err)
	}
}

// FuzzSplit holds that no answer makes a panic, and that what is read of it fits in it.
func FuzzSplit(f *testing.F) {
	f.Add([]byte{20, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4})
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := split(b)
		if err != nil {
			return
		}
		size := 0
		for _, m := range all {
			size += unix.SizeofNlMsghdr + len(m.Data)
		}
		if len(all) == 0 || size > len(b) {
			t.Fatalf("%d messages of %d bytes, of %d", len(all), size, len(b))
		}
	})
}

//go:build linux

package nlsock

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/mdlayher/netlink"
	vishvananda "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// inside opens a socket in a new namespace, in which f then goes on.
func inside(t *testing.T, f func(*socket, *netlink.Conn) error) {
	t.Helper()
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	err = ns.Do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		s := &socket{fd: fd, most: maxAnswer}
		c := netlink.NewConn(s, 0)
		defer c.Close()
		return errors.Join(s.setUp(0), f(s, c))
	})
	if err != nil {
		t.Error(err)
	}
}

func veth(name string) *vishvananda.Veth {
	return &vishvananda.Veth{LinkAttrs: vishvananda.LinkAttrs{Name: name}, PeerName: name + "p"}
}

// request is message n of those that list interfaces.
func request(n uint32) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Length: unix.SizeofNlMsghdr + unix.SizeofIfInfomsg, Type: unix.RTM_GETLINK, Sequence: n,
			Flags: netlink.Request | netlink.Dump},
		Data: make([]byte, unix.SizeofIfInfomsg),
	}
}

// TestInterrupted: an interface goes while the kernel lists a hundred, so that the rest of the list moves up. What was
// listed by then does not count.
func TestInterrupted(t *testing.T) {
	const many = 100
	inside(t, func(s *socket, c *netlink.Conn) error {
		for i := range many {
			if err := vishvananda.LinkAdd(veth(fmt.Sprintf("d%d", i))); err != nil {
				return err
			}
		}
		if err := s.Send(request(1)); err != nil {
			return err
		}
		first, err := s.part(0)
		if err != nil {
			return err
		}
		if err := errors.Join(vishvananda.LinkDel(veth("d0")), vishvananda.LinkAdd(veth("after"))); err != nil {
			return err
		}
		rest, err := s.Receive()
		if err != nil {
			return err
		}
		var names []string
		for _, m := range rest[:len(rest)-1] {
			link, err := vishvananda.LinkDeserialize(nil, m.Data)
			if err != nil {
				return err
			}
			names = append(names, link.Attrs().Name)
		}
		if len(first) >= many || len(names) != 2*many+1 || slices.Contains(names, "d0") || !slices.Contains(names, "after") {
			t.Errorf("after %d before the change there are %d: %s", len(first), len(names), names)
		}
		if rest[len(rest)-1].Header.Type != netlink.Done {
			t.Errorf("it does not end: %+v", rest[len(rest)-1])
		}
		// The next answer is to the next request.
		if again, err := links(c); err != nil || len(again) != 2*many+1 {
			t.Errorf("then there are %d interfaces, %v", len(again), err)
		}
		return nil
	})
}

// overrun makes the kernel lose the answers to what is asked next, until the socket is read: nothing fits into it.
func overrun(s *socket) error {
	if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		return err
	}
	const more = 100
	for n := range uint32(more) {
		ask := request(1000 + n)
		ask.Header.Flags = netlink.Request
		ask.Data[4] = 1 // lo
		if err := s.Send(ask); err != nil {
			return err
		}
	}
	return nil
}

// TestLostAnswer: the kernel has no room for an answer. A question is asked again. A change is said to be unheard of,
// and was made; and nothing of what came before is taken for the answer to the next.
func TestLostAnswer(t *testing.T) {
	inside(t, func(s *socket, c *netlink.Conn) error {
		if err := overrun(s); err != nil {
			return err
		}
		if found, err := links(c); err != nil || len(found) != 1 {
			t.Errorf("%d interfaces, %v", len(found), err)
		}
		if err := overrun(s); err != nil {
			return err
		}
		up := make([]byte, unix.SizeofIfInfomsg)
		up[4], up[8], up[12] = 1, unix.IFF_UP, unix.IFF_UP
		_, err := c.Execute(netlink.Message{Data: up, Header: netlink.Header{Type: unix.RTM_NEWLINK,
			Flags: netlink.Request | netlink.Acknowledge}})
		if !errors.Is(err, unix.ENOBUFS) {
			t.Errorf("a change of which the answer is lost: %v", err)
		}
		lo, err := vishvananda.LinkByName("lo")
		if err != nil || lo.Attrs().RawFlags&unix.IFF_UP == 0 {
			t.Errorf("it was not made: %+v, %v", lo, err)
		}
		if found, err := links(c); err != nil || len(found) != 1 {
			t.Errorf("then there are %d interfaces, %v", len(found), err)
		}
		return nil
	})
}

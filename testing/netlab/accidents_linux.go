package netlab

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Accidents happen to frames on a cable: of a hundred frames in each direction
// so many are lost, come twice, or come after later ones. The zero Accidents
// are none.
type Accidents struct{ Lost, Twice, Late int }

// addTAPs makes a cable of two TAP devices, between which this process carries
// the frames. The kernel's own way to have accidents, netem, is a module that
// not all kernels have.
func (l *Lab) addTAPs(h *netlink.Handle, c cable) (index int, err error) {
	near, err := openTAP(c.name)
	if err != nil {
		return 0, err
	}
	var far *os.File
	err = l.Peer.Do(func() error {
		if far, err = openTAP(c.name); err != nil {
			return err
		}
		peer, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer peer.Close()
		_, err = setUp(peer, c.name, farMAC)
		return err
	})
	if err != nil {
		near.Close()
		if far != nil {
			far.Close()
		}
		return 0, err
	}
	l.own.serve(near, func() { c.accidents.carry(far, near, 1) })
	l.own.serve(far, func() { c.accidents.carry(near, far, 2) })
	return setUp(h, c.name, podMAC)
}

// setUp sets a TAP device up, with a hardware address.
func setUp(h *netlink.Handle, name string, mac net.HardwareAddr) (index int, err error) {
	link, err := h.LinkByName(name)
	if err != nil {
		return 0, err
	}
	return link.Attrs().Index, errors.Join(h.LinkSetHardwareAddr(link, mac), h.LinkSetUp(link))
}

// openTAP makes a TAP device in the namespace of the calling thread. It is gone
// when the file is closed.
func openTAP(name string) (*os.File, error) {
	const device = "/dev/net/tun"
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: device, Err: err}
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make the TAP device %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), device), nil
}

// heldFor is how long a frame that is late waits if nothing comes after it.
const heldFor = 2 * time.Millisecond

// carry carries frames from one end of a cable to the other, until it is closed.
func (a Accidents) carry(to, from *os.File, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 802))
	frame := make([]byte, 64<<10)
	var held [][]byte
	// A full queue loses what comes, as any cable does.
	send := func(b []byte) { _, _ = to.Write(b) }
	for {
		var deadline time.Time
		if len(held) > 0 {
			deadline = time.Now().Add(heldFor)
		}
		err := from.SetReadDeadline(deadline)
		n := 0
		if err == nil {
			n, err = from.Read(frame)
		}
		waited := errors.Is(err, os.ErrDeadlineExceeded)
		switch {
		case waited:
		case err != nil:
			return
		case r.IntN(100) < a.Lost:
		case r.IntN(100) < a.Late:
			held = append(held, append([]byte(nil), frame[:n]...))
			continue
		default:
			send(frame[:n])
			if r.IntN(100) < a.Twice {
				send(frame[:n])
			}
		}
		if waited || r.IntN(3) == 0 {
			for _, b := range held {
				send(b)
			}
			held = nil
		}
	}
}

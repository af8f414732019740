//go:build linux

package trial

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/sockets"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

// StandIns listen and answer in place of a proxy that is not up yet.
type StandIns struct {
	// Owner is who they are.
	Owner ruleset.Owner
	fds   []int
	of    map[int]verify.StandIn
	stop  *os.File
	ended chan error
}

// Listen has stand-ins listen where the proxy has to, by a configuration, in the thread's namespace. They are somebody
// that the rules take for the proxy. The error is a [ServedError] if somebody is there.
func Listen(c intercept.Config, families []ruleset.Family) (s *StandIns, err error) {
	all := verify.StandIns(c, families)
	if err := served(all); err != nil {
		return nil, err
	}
	owner, mark := verify.StandInOwner(c)
	if !canBe(owner) && (mark != 0 || isProxy(c.Proxy, self())) {
		owner = self()
	}
	s = &StandIns{Owner: owner, of: map[int]verify.StandIn{}, ended: make(chan error, 1)}
	defer func() {
		if err != nil {
			s.closeAll()
			err = fmt.Errorf("listen in place of the proxy: %w", err)
		}
	}()
	err = as(owner, func() error {
		for _, each := range all {
			fd, err := listen(each, mark)
			if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL) {
				continue // the namespace has none of that family
			}
			if err != nil {
				return fmt.Errorf("%s %s: %w", each.Protocol, each.Addr, err)
			}
			s.fds, s.of[fd] = append(s.fds, fd), each
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	wake, stop, err := os.Pipe()
	if err != nil {
		return s, err
	}
	s.stop = stop
	ready := make(chan struct{})
	go func() {
		defer wake.Close()
		// Who accepts is who the thread is.
		s.ended <- as(owner, func() error {
			close(ready)
			return s.serve(int(wake.Fd()))
		})
	}()
	select {
	case <-ready:
		return s, nil
	case err := <-s.ended:
		return s, errors.Join(err, stop.Close())
	}
}

// Close ends them. Nothing is left at their ports: a proxy can listen there at once.
func (s *StandIns) Close() error {
	_ = s.stop.Close()
	err := <-s.ended
	s.closeAll()
	return err
}

func (s *StandIns) closeAll() {
	for _, fd := range s.fds {
		_ = unix.Close(fd)
	}
}

func isProxy(p intercept.Proxy, o ruleset.Owner) bool {
	return p.UIDs.Contains(o.UID) || p.GIDs.Contains(o.GID)
}

// served looks for somebody who waits at a port, at whatever address.
func served(all []verify.StandIn) error {
	for _, each := range all {
		waiting, err := sockets.List(each.Protocol)
		if err != nil {
			return err
		}
		for _, w := range waiting {
			if w.Local.Port() == each.Addr.Port() {
				return ServedError{each.Protocol, w.Local, holder(w, sockets.Processes(map[uint64]bool{w.Inode: true}))}
			}
		}
	}
	return nil
}

func listen(s verify.StandIn, mark uint32) (fd int, err error) {
	typ := unix.SOCK_STREAM
	if s.Protocol == ruleset.UDP {
		typ = unix.SOCK_DGRAM
	}
	is4, domain := s.Addr.Addr().Is4(), unix.AF_INET
	if !is4 {
		domain = unix.AF_INET6
	}
	if fd, err = unix.Socket(domain, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	set := func(does bool, level, option, value int) {
		if does {
			err = errors.Join(err, os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value)))
		}
	}
	set(typ == unix.SOCK_STREAM, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	set(!is4, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	set(s.Transparent && is4, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1)
	set(s.Transparent && !is4, unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1)
	set(mark != 0, unix.SOL_SOCKET, unix.SO_MARK, int(mark))
	if typ == unix.SOCK_STREAM {
		// What is accepted inherits it: closed it leaves nothing at the port (TIME_WAIT).
		err = errors.Join(err, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, sockaddr(s.Addr)))
	}
	if err == nil && typ == unix.SOCK_STREAM {
		err = os.NewSyscallError("listen", unix.Listen(fd, mostServed))
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// mostServed is how many connections a stand-in holds.
const mostServed = 256

// serve accepts, holds and answers until wake is at its end.
func (s *StandIns) serve(wake int) error {
	open := map[int]verify.StandIn{} // what was accepted
	defer func() {
		for fd := range open {
			_ = unix.Close(fd)
		}
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(wake), Events: unix.POLLIN}}
		for _, of := range []map[int]verify.StandIn{s.of, open} {
			for fd := range of {
				fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
			}
		}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
		if fds[0].Revents != 0 {
			return nil
		}
		for _, p := range fds[1:] {
			fd := int(p.Fd)
			if p.Revents == 0 {
				continue
			}
			conn, isConn := open[fd]
			switch {
			case isConn:
				if !reply(fd, conn) {
					delete(open, fd)
					_ = unix.Close(fd)
				}
			case s.of[fd].Protocol == ruleset.UDP:
				replyFrom(fd)
			default:
				accepted, _, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
				switch {
				case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
					return os.NewSyscallError("accept", err)
				case err != nil: // it has gone meanwhile
				case len(open) >= mostServed:
					_ = unix.Close(accepted)
				default:
					open[accepted] = s.of[fd]
				}
			}
		}
	}
}

// reply reads of a connection, and answers what is a lookup. ok is false at its end.
func reply(fd int, s verify.StandIn) (ok bool) {
	b := make([]byte, 4096)
	n, err := unix.Read(fd, b)
	if err != nil || n == 0 {
		return errors.Is(err, unix.EAGAIN)
	}
	if s.Lookups && n > 2 && int(binary.BigEndian.Uint16(b)) == n-2 {
		if a := noAnswer(b[2:n]); a != nil {
			_ = unix.Send(fd, framed(a), unix.MSG_NOSIGNAL)
		}
	}
	return true
}

// replyFrom answers a lookup over UDP.
func replyFrom(fd int) {
	b := make([]byte, 4096)
	n, from, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return
	}
	if a := noAnswer(b[:n]); a != nil {
		_ = unix.Sendto(fd, a, unix.MSG_NOSIGNAL, from) // nobody may wait for it any more
	}
}

// noAnswer answers a lookup with SERVFAIL: whoever else has asked asks again. Nil: it is none.
func noAnswer(q []byte) []byte {
	if len(q) < 12 || q[2]&0x80 != 0 {
		return nil
	}
	q[2], q[3] = q[2]|0x80, 0x82
	return q
}

//go:build linux

// Package nlsock opens netlink sockets that call the kernel directly.
//
// The kernel answers a request before sendmsg(2) returns (netlink_unicast_kernel
// in net/netlink/af_netlink.c), so that there is nothing to wait for. The
// transport that package netlink has of its own starts a goroutine for every
// message sent or received, to watch for a cancellation that never comes: an
// apply sends and receives some fifty, and took twice as long.
package nlsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Dial opens a socket of a netlink protocol, such as unix.NETLINK_ROUTE, in the
// network namespace of the calling thread. It stays there, whatever thread uses
// it. If buffers is not zero it is the limit of what the socket may hold, in
// bytes; without privilege that of the system holds. The Conn is for one
// goroutine at a time.
func Dial(protocol, buffers int) (*netlink.Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &socket{fd: fd, most: maxAnswer}
	if err := s.setUp(buffers); err != nil {
		return nil, errors.Join(os.NewSyscallError("setsockopt", err), s.Close())
	}
	return netlink.NewConn(s, 0), nil
}

// socket is what [netlink.NewConn] takes.
type socket struct {
	fd     int
	buffer []byte // what is received is copied out of it
	// received is how many bytes have come since a request, of at most most.
	received, most int
	// question is what was sent last, if it asks and changes nothing: it can be asked again.
	question []byte
}

// maxAnswer is more than there is of anything that is listed here in earnest: some
// 200,000 rules. Who may write rules in a namespace can make any number of them, and
// who lists them is mostly outside of it.
const maxAnswer = 64 << 20

// ErrTooMuch reports that the kernel has more to list than is read.
var ErrTooMuch = errors.New("there is too much to list")

// ErrInterrupted reports a listing that changes interrupt each time that it is made.
var ErrInterrupted = errors.New("what is listed keeps changing; another program keeps writing it")

// maxRepeats bounds how often a question is asked again.
const maxRepeats = 100

// patience is how many seconds an answer may take that should be there at once.
// Where no answer comes at all that is an error, and not the end of the program.
const patience = 60

func (s *socket) setUp(buffers int) error {
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience}); err != nil {
		return err
	}
	if buffers == 0 {
		return nil
	}
	for _, option := range []struct{ force, plain int }{
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}} {
		err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, option.force, buffers)
		if errors.Is(err, unix.EPERM) {
			err = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, option.plain, buffers)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Close closes the socket.
func (s *socket) Close() error { return os.NewSyscallError("close", unix.Close(s.fd)) }

// Send sends one message.
func (s *socket) Send(m netlink.Message) error { return s.SendMessages([]netlink.Message{m}) }

// SendMessages sends all messages in one call.
func (s *socket) SendMessages(messages []netlink.Message) error {
	size := 0
	for _, m := range messages {
		size += int(m.Header.Length) // the library has set it, rounded up to four
	}
	all := make([]byte, 0, size) // one buffer, and not two of each message
	for _, m := range messages {
		end := len(all) + int(m.Header.Length)
		if int(m.Header.Length) < unix.NLMSG_HDRLEN+len(m.Data) || end > size {
			return fmt.Errorf("%w: a message of %d bytes, of which the header says %d", unix.EINVAL, len(m.Data),
				m.Header.Length)
		}
		all = binary.NativeEndian.AppendUint32(all, m.Header.Length)
		all = binary.NativeEndian.AppendUint16(all, uint16(m.Header.Type))
		all = binary.NativeEndian.AppendUint16(all, uint16(m.Header.Flags))
		all = binary.NativeEndian.AppendUint32(all, m.Header.Sequence)
		all = binary.NativeEndian.AppendUint32(all, m.Header.PID)
		all = append(all, m.Data...)
		all = all[:end] // the rest is zero
	}
	s.question = nil
	if len(messages) == 1 && messages[0].Header.Flags&netlink.Acknowledge == 0 {
		s.question = all
	}
	return s.send(all)
}

func (s *socket) send(b []byte) error {
	s.received = 0
	for {
		err := unix.Sendto(s.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if !errors.Is(err, unix.EINTR) { // which is before anything is sent
			return os.NewSyscallError("sendto", err)
		}
	}
}

// bufferSize is more than the kernel puts into one answer: 32 KiB of a dump
// (netlink_recvmsg), and an error with the message that it is about, of which
// an attribute has at most 64 KiB.
const bufferSize = 128 << 10

// Receive takes one answer, all parts of it. A listing that a change has interrupted (NLM_F_DUMP_INTR) can have left
// out anything, and is made again; so is a question to which the answer was lost (ENOBUFS). Where the answer to a
// change was lost the error is ENOBUFS: the kernel may have made the change, or not. What else has come is thrown away:
// the next answer is to the next request.
func (s *socket) Receive() ([]netlink.Message, error) {
	for range maxRepeats {
		messages, interrupted, err := s.whole()
		lost := errors.Is(err, unix.ENOBUFS)
		if lost {
			err = errors.Join(err, s.drain())
		}
		if s.question == nil || !interrupted && !lost {
			return messages, err
		}
		if err := s.send(s.question); err != nil {
			return nil, err
		}
	}
	return nil, ErrInterrupted
}

// whole takes an answer, and reports whether a change has interrupted it.
func (s *socket) whole() (all []netlink.Message, interrupted bool, err error) {
	for {
		part, err := s.part(0)
		if err != nil {
			return nil, false, err
		}
		more := false
		for _, m := range part {
			interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
			more = m.Header.Flags&netlink.Multi != 0 && m.Header.Type != netlink.Done
		}
		if all == nil {
			all = part
		} else {
			all = append(all, part...)
		}
		if !more {
			return ended(all), interrupted, nil
		}
	}
}

// ended takes the flag of several parts from an answer that is whole without NLMSG_DONE: nft_compat sets it where an
// acknowledgment is what comes last (nfnl_compat_fill_info), and the library would wait for more.
func ended(all []netlink.Message) []netlink.Message {
	if all[len(all)-1].Header.Type != netlink.Done {
		for i := range all {
			all[i].Header.Flags &^= netlink.Multi
		}
	}
	return all
}

// drain takes what is left of answers, so that none of it is taken for the answer to what is asked next.
func (s *socket) drain() error {
	for {
		_, err := s.part(unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil && !errors.Is(err, unix.ENOBUFS):
			return err
		}
	}
}

// part takes one part of an answer. It waits for it if flags do not say otherwise (MSG_DONTWAIT).
func (s *socket) part(flags int) ([]netlink.Message, error) {
	if s.buffer == nil {
		s.buffer = make([]byte, bufferSize)
	}
	for {
		n, from, err := unix.Recvfrom(s.fd, s.buffer, unix.MSG_TRUNC|flags)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN) && flags&unix.MSG_DONTWAIT == 0:
			return nil, fmt.Errorf("the kernel has not answered within %d s", patience)
		case err != nil:
			return nil, os.NewSyscallError("recvfrom", err)
		case n > len(s.buffer):
			return nil, fmt.Errorf("an answer of the kernel's of %d bytes: there is room for %d", n, len(s.buffer))
		}
		if s.received += n; s.received > s.most {
			return nil, fmt.Errorf("%w: over %d bytes; find out who has made that many (nft list ruleset, ip rule)", ErrTooMuch,
				s.most)
		}
		if sender, ok := from.(*unix.SockaddrNetlink); !ok || sender.Pid != 0 {
			continue // another process, which has nothing to say here
		}
		return split(append([]byte(nil), s.buffer[:n]...))
	}
}

// split takes one answer apart.
func split(b []byte) ([]netlink.Message, error) {
	n := 0
	for rest := b; len(rest) >= unix.NLMSG_HDRLEN; n++ {
		length := int(binary.NativeEndian.Uint32(rest))
		if length < unix.NLMSG_HDRLEN || length > len(rest) {
			return nil, fmt.Errorf("an answer of the kernel's of %d bytes: %w", len(b), unix.EINVAL)
		}
		rest = rest[min(len(rest), aligned(length)):]
	}
	if n == 0 {
		return nil, fmt.Errorf("an answer of the kernel's of %d bytes: there is no message in it", len(b))
	}
	messages := make([]netlink.Message, n)
	for i := range messages {
		length := binary.NativeEndian.Uint32(b)
		messages[i] = netlink.Message{Data: b[unix.NLMSG_HDRLEN:length], Header: netlink.Header{
			Length: length, Type: netlink.HeaderType(binary.NativeEndian.Uint16(b[4:])),
			Flags:    netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:])),
			Sequence: binary.NativeEndian.Uint32(b[8:]), PID: binary.NativeEndian.Uint32(b[12:]),
		}}
		b = b[min(len(b), aligned(int(length))):]
	}
	return messages, nil
}

// aligned is where the message after one of so many bytes begins.
func aligned(length int) int { return (length + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }

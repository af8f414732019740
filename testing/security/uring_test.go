//go:build linux

package security

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// As much of io_uring (io_uring_setup(2), linux/io_uring.h) as it takes to open a socket and to connect it.

const (
	opConnect = 16 // IORING_OP_CONNECT
	opSocket  = 45 // IORING_OP_SOCKET

	setupSQPoll         = 1 << 1 // IORING_SETUP_SQPOLL
	enterGetEvents      = 1 << 0 // IORING_ENTER_GETEVENTS
	enterWakeUp         = 1 << 1 // IORING_ENTER_SQ_WAKEUP
	registerPersonality = 9      // IORING_REGISTER_PERSONALITY

	offSQ, offSQEs = 0, 0x10000000 // IORING_OFF_SQ_RING, IORING_OFF_SQES
	sqeSize        = 64
)

// uringParams is struct io_uring_params.
type uringParams struct {
	SQEntries, CQEntries, Flags, ThreadCPU, ThreadIdle, Features, WQ uint32
	_                                                                [3]uint32
	SQ, CQ                                                           struct {
		Head, Tail, Mask, Entries, F4, F5, F6, _ uint32
		_                                        uint64
	}
}

type uring struct {
	fd         int
	p          uringParams
	ring, sqes []byte
}

func newURing(flags uint32) (*uring, error) {
	const entries = 4
	u := &uring{p: uringParams{Flags: flags, ThreadIdle: 1000}}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, entries, uintptr(unsafe.Pointer(&u.p)), 0)
	if errno != 0 {
		return nil, errno
	}
	u.fd = int(fd)
	const prot = unix.PROT_READ | unix.PROT_WRITE
	const kind = unix.MAP_SHARED | unix.MAP_POPULATE
	// Both queues are in one mapping since Linux 5.4; F5 of the completion queue is where its entries are.
	size := max(int(u.p.SQ.F6)+int(u.p.SQEntries)*4, int(u.p.CQ.F5)+int(u.p.CQEntries)*16)
	var err, err2 error
	u.ring, err = unix.Mmap(u.fd, offSQ, size, prot, kind)
	u.sqes, err2 = unix.Mmap(u.fd, offSQEs, int(u.p.SQEntries)*sqeSize, prot, kind)
	return u, errors.Join(err, err2)
}

func (u *uring) close() { unix.Close(u.fd) }

func (u *uring) word(at uint32) *uint32 { return (*uint32)(unsafe.Pointer(&u.ring[at])) }

// do has the kernel carry out one operation, and returns its result.
func (u *uring) do(op byte, fd int32, addr, offset uint64, length uint32, personality uint16) (int32, error) {
	sqe := u.sqes[:sqeSize]
	clear(sqe)
	sqe[0] = op
	binary.NativeEndian.PutUint32(sqe[4:], uint32(fd))
	binary.NativeEndian.PutUint64(sqe[8:], offset)
	binary.NativeEndian.PutUint64(sqe[16:], addr)
	binary.NativeEndian.PutUint32(sqe[24:], length)
	binary.NativeEndian.PutUint16(sqe[42:], personality)
	tail := u.word(u.p.SQ.Tail)
	*u.word(u.p.SQ.F6 + (*tail & *u.word(u.p.SQ.Mask) * 4)) = 0
	atomic.AddUint32(tail, 1)
	submit, flags := uintptr(1), uintptr(enterGetEvents)
	if u.p.Flags&setupSQPoll != 0 {
		submit, flags = 0, flags|enterWakeUp
	}
	for {
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(u.fd), submit, 1, flags, 0, 0)
		if errno == unix.EINTR {
			submit = 0
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		break
	}
	head := u.word(u.p.CQ.Head)
	if *head == atomic.LoadUint32(u.word(u.p.CQ.Tail)) {
		return 0, fmt.Errorf("io_uring: no completion")
	}
	cqe := u.ring[u.p.CQ.F5+*head&*u.word(u.p.CQ.Mask)*16:]
	result := int32(binary.NativeEndian.Uint32(cqe[8:]))
	atomic.AddUint32(head, 1)
	if result < 0 {
		return 0, unix.Errno(-result)
	}
	return result, nil
}

// askURing is ask by a socket that the ring opens and connects.
func askURing(to netip.AddrPort, flags uint32, personal bool) string {
	u, err := newURing(flags)
	if err != nil {
		return said(err)
	}
	defer u.close()
	var personality uint16
	if personal {
		id, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(u.fd), registerPersonality, 0, 0, 0, 0)
		if errno != 0 {
			return said(errno)
		}
		personality = uint16(id)
	}
	// Domain, type and protocol stand where others have a descriptor, an offset and a length.
	fd, err := u.do(opSocket, int32(netlab.Domain(to.Addr())), 0, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0, personality)
	if err != nil {
		return said(err)
	}
	defer unix.Close(int(fd))
	if err := patient(int(fd), patience); err != nil {
		return said(err)
	}
	sa, size := rawSockaddr(to)
	if _, err := u.do(opConnect, fd, uint64(uintptr(unsafe.Pointer(&sa[0]))), uint64(size), 0, personality); err != nil {
		return said(err)
	}
	if _, err := unix.Write(int(fd), []byte("whoami\n")); err != nil {
		return said(err)
	}
	return answerer(int(fd))
}

// rawSockaddr is struct sockaddr_in or sockaddr_in6.
func rawSockaddr(a netip.AddrPort) (b []byte, size int) {
	b = make([]byte, unix.SizeofSockaddrInet6)
	binary.NativeEndian.PutUint16(b, uint16(netlab.Domain(a.Addr())))
	binary.BigEndian.PutUint16(b[2:], a.Port())
	if a.Addr().Is4() {
		copy(b[4:], a.Addr().AsSlice())
		return b, unix.SizeofSockaddrInet4
	}
	copy(b[8:], a.Addr().AsSlice())
	return b, unix.SizeofSockaddrInet6
}

// The calls of package unix for these options have types of their own.

func setsockopt(fd, level, name int, value unsafe.Pointer, size uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), size, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func getsockopt(fd, level, name int, value unsafe.Pointer, size uint32) error {
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(value),
		uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

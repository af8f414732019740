package nfevents

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Stream receives events of one network namespace, in the order in which they happened. It is for one goroutine.
type Stream struct {
	file   *os.File // of a socket; by it Go's poller waits
	buffer []byte
	before []logger // who logged before BindLog
}

// room is how much may wait to be read, in bytes: some 10,000 events. What comes beyond is lost, and counted.
const room = 8 << 20

// Open listens, in the network namespace that the calling thread is in: the stream stays there, whatever thread uses it.
// The error is [ruleset.ErrPermission] or [ruleset.ErrUnsupported], or says what failed.
func Open(groups ...Group) (*Stream, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("listen to netfilter's events: %w: socket: %w", ruleset.ErrUnsupported, err)
	}
	s := &Stream{file: os.NewFile(uintptr(fd), "netlink"), buffer: make([]byte, 256<<10)}
	if err := s.setUp(fd, groups); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

func (s *Stream) setUp(fd int, groups []Group) error {
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room)
	if err != nil { // without privilege in the first user namespace: what the system allows
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, room)
	}
	// What is lost is counted all the same, and what comes next is not thrown away with it.
	err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 1),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
	if err != nil {
		return fmt.Errorf("listen to netfilter's events: %w", err)
	}
	for _, g := range groups {
		err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g))
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			return fmt.Errorf("listen to netfilter's events: %w", ruleset.NoNetAdmin(err))
		} else if err != nil {
			return fmt.Errorf("listen to netfilter's events: %w: group %d: %w", ruleset.ErrUnsupported, g, err)
		}
	}
	return nil
}

// Commands of linux/netfilter/nfnetlink_log.h.
const (
	logConfig                             = subsystemLog<<8 | 1
	logBind, logBindFamily, logFreeFamily = 1, 3, 4
	logCommand, logMode, logThreshold     = 1, 2, 5
	logGroup                              = 0 // that of traced packets (nfulnl_log_packet)
)

// logger is who logs what packets of a family meet. Its name ends in a line feed.
type logger struct {
	family byte
	name   []byte
}

// loggerPath is the sysctl that names a family's logger, in the network namespace of the thread.
func loggerPath(family byte) string { return fmt.Sprintf("/proc/sys/net/netfilter/nf_log/%d", family) }

// BindLog has the legacy xtables tell this stream which rules a traced packet meets: it makes nfnetlink_log the logger of
// both families in the namespace, until the stream is closed, and binds its group 0. The error is
// [ruleset.ErrUnsupported] where there is no nfnetlink_log, or says that another program has the group.
func (s *Stream) BindLog() error {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		name, _ := os.ReadFile(loggerPath(family)) // where it cannot be read, it cannot be written either
		if err := s.command(family, logCommand, []byte{logBindFamily}); err != nil {
			return lacksLog(err)
		}
		s.before = append(s.before, logger{family, name})
	}
	err := s.command(unix.AF_UNSPEC, logCommand, []byte{logBind})
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("another program listens to the packets that the legacy iptables log (group %d of nfnetlink_log): %w; "+
			"end it (ulogd, xtables-monitor, or another mesh-init trace)", logGroup, err)
	}
	if err == nil {
		const headers, copyPacket = 128, 2
		err = s.command(unix.AF_UNSPEC, logMode, append(binary.BigEndian.AppendUint32(nil, headers), copyPacket, 0))
	}
	if err == nil { // each at once, so that they stay in order with other events
		err = s.command(unix.AF_UNSPEC, logThreshold, binary.BigEndian.AppendUint32(nil, 1))
	}
	if err != nil {
		return lacksLog(err)
	}
	return nil
}

func lacksLog(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("listen to what xtables log: %w: %w", ruleset.ErrPermission, err)
	}
	return fmt.Errorf("%w: rules of iptables-legacy cannot be traced, for the kernel has no nfnetlink_log (%w); mesh-init "+
		"status counts what each rule has met, and mesh-init explain says what they do", ruleset.ErrUnsupported, err)
}

// command sends one command to nfnetlink_log and waits for the acknowledgment. Events that come before it are lost: it is
// for before the first.
func (s *Stream) command(family byte, attr uint16, value []byte) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	body := append([]byte{family, unix.NFNETLINK_V0}, 0, logGroup)
	body = binary.NativeEndian.AppendUint16(body, uint16(4+len(value)))
	body = binary.NativeEndian.AppendUint16(body, attr)
	body = append(body, value...)
	body = append(body, make([]byte, (4-len(value)%4)%4)...)
	m := binary.NativeEndian.AppendUint32(nil, uint32(headerSize+len(body)))
	m = binary.NativeEndian.AppendUint16(m, logConfig)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m = append(append(m, make([]byte, 8)...), body...)
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.Sendto(int(fd), m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		for failed == nil { // the kernel has answered by now
			n, _, err := unix.Recvfrom(int(fd), s.buffer, unix.MSG_DONTWAIT)
			if err != nil {
				failed = err
			} else if n >= headerSize+4 && binary.NativeEndian.Uint16(s.buffer[4:]) == unix.NLMSG_ERROR {
				if errno := int32(binary.NativeEndian.Uint32(s.buffer[headerSize:])); errno != 0 {
					failed = unix.Errno(-errno)
				}
				return
			}
		}
	}); err != nil {
		return err
	}
	return failed
}

// Next returns the next events, or none if there are none until a time. What they hold is theirs.
func (s *Stream) Next(until time.Time) ([]Event, error) {
	if err := s.file.SetReadDeadline(until); err != nil {
		return nil, fmt.Errorf("wait for netfilter's events: %w", err)
	}
	n, err := s.file.Read(s.buffer)
	if errors.Is(err, os.ErrDeadlineExceeded) { // who comes late has not even tried to read
		n, err = s.readNow()
	}
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINTR):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read netfilter's events: %w", err)
	}
	return Decode(append([]byte(nil), s.buffer[:n]...)), nil
}

// readNow reads what is there.
func (s *Stream) readNow() (n int, err error) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { n, inner = unix.Read(int(fd), s.buffer) })
	return n, errors.Join(err, inner)
}

// Lost counts the messages that the kernel could not deliver since the stream is open, for there was no room for them.
func (s *Stream) Lost() uint64 {
	const memInfo, drops, count = 55, 8, 9 // SO_MEMINFO; SK_MEMINFO_DROPS and SK_MEMINFO_VARS of linux/sock_diag.h
	var info [count]uint32
	raw, err := s.file.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		size := uint32(unsafe.Sizeof(info))
		_, _, _ = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, memInfo, uintptr(unsafe.Pointer(&info)),
			uintptr(unsafe.Pointer(&size)), 0)
	})
	return uint64(info[drops])
}

// Close stops listening. After [Stream.BindLog] it takes a thread in the stream's namespace: the logger is again who was
// it before, or nobody where that cannot be written.
func (s *Stream) Close() error {
	var errs []error
	for _, l := range s.before {
		errs = append(errs, s.command(l.family, logCommand, []byte{logFreeFamily}))
		if name := strings.TrimSpace(string(l.name)); name != "" && name != "NONE" && name != "nfnetlink_log" {
			_ = os.WriteFile(loggerPath(l.family), []byte(name), 0) // read-only in most containers
		}
	}
	return errors.Join(append(errs, s.file.Close())...)
}

package nslock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Commands and attributes of linux/netfilter/nfnetlink_log.h.
const (
	messageConfig = unix.NFNL_SUBSYS_ULOG<<8 | 1 // NFULNL_MSG_CONFIG
	attrCommand   = 1                            // NFULA_CFG_CMD
	commandBind   = 1                            // NFULNL_CFG_CMD_BIND
	commandUnbind = 2                            // NFULNL_CFG_CMD_UNBIND
)

// takeLogGroup binds to the group.
func takeLogGroup() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, errors.Join(errNoLog, os.NewSyscallError("socket", err))
	}
	switch err = command(fd, group, commandBind); {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.EBUSY):
		err = errHeld
	case errors.Is(err, unix.EPERM):
		// So says the kernel of a group that another has, and of want of privilege. To give up a group that nobody
		// has tells the two apart.
		if again := command(fd, group+1, commandUnbind); errors.Is(again, unix.EPERM) {
			err = ruleset.NoNetAdmin(unix.EPERM)
		} else {
			err = errHeld
		}
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		err = errors.Join(errNoLog, err) // the module nfnetlink_log is not there
	}
	return -1, errors.Join(err, unix.Close(fd))
}

// command sends one command about a group and takes its answer, which the kernel gives before sendto returns. It does
// without a library and its buffers: they would take thirty times as long as the lock.
func command(fd int, group uint16, what byte) error {
	const size = unix.NLMSG_HDRLEN + 4 + unix.NLA_HDRLEN + 4 // one byte of attribute, padded to four
	m := binary.NativeEndian.AppendUint32(nil, size)
	m = binary.NativeEndian.AppendUint16(m, messageConfig)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	m = append(m, make([]byte, 8)...)                                                      // sequence and port
	m = binary.BigEndian.AppendUint16(append(m, unix.AF_UNSPEC, unix.NFNETLINK_V0), group) // struct nfgenmsg
	m = binary.NativeEndian.AppendUint16(m, unix.NLA_HDRLEN+1)
	m = binary.NativeEndian.AppendUint16(m, attrCommand)
	m = append(m, what, 0, 0, 0)
	for {
		err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) { // which is before anything is sent
			return os.NewSyscallError("sendto", err)
		}
	}
	answer := make([]byte, 256)
	n, _, err := unix.Recvfrom(fd, answer, unix.MSG_DONTWAIT)
	switch {
	case err != nil:
		return os.NewSyscallError("recvfrom", err)
	case n < unix.NLMSG_HDRLEN+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR:
		return fmt.Errorf("an answer of the kernel's of %d bytes, which is no acknowledgment", n)
	}
	if errno := int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); errno != 0 {
		return unix.Errno(-errno)
	}
	return nil
}

// takeSocket binds the abstract name.
func takeSocket() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err == nil {
		return fd, nil
	}
	if errors.Is(err, unix.EADDRINUSE) {
		err = errHeld
	}
	return -1, errors.Join(err, unix.Close(fd))
}

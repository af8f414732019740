package cniwire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// known reports a process at the other end of a connection that is neither root's nor of this process's own user.
func known(conn net.Conn) error {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%w: %T is no UNIX socket", ErrStranger, conn)
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, knownAt)
}

// knownAt is known of a descriptor. Of who listens, the process at the other end is the one that called listen(2), of
// who connects, the one that called connect(2) (SO_PEERCRED, unix(7)).
func knownAt(fd int) error {
	peer, err := syscall.GetsockoptUcred(fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	switch {
	case err != nil:
		return os.NewSyscallError("getsockopt", err)
	case peer.Uid != 0 && int64(peer.Uid) != int64(os.Geteuid()):
		return fmt.Errorf("%w: user %d's, and not root's", ErrStranger, peer.Uid)
	}
	return nil
}

// private has the file of a socket made for its owner alone: it gets the mode of the socket, whatever the umask, so
// that there is no moment at which others could connect.
func private(_, _ string, raw syscall.RawConn) error {
	return control(raw, func(fd int) error { return os.NewSyscallError("fchmod", syscall.Fchmod(fd, 0o600)) })
}

func control(raw syscall.RawConn, do func(fd int) error) (err error) {
	inner := raw.Control(func(fd uintptr) { err = do(int(fd)) })
	return errors.Join(inner, err)
}

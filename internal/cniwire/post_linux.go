package cniwire

import (
	"os"
	"syscall"
)

// post writes a message to a socket, if it takes it at once.
func post(socket string, message []byte) error {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = syscall.Close(fd) }() // what was written stays in the socket
	if err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}); err == nil {
		err = knownAt(fd)
	}
	if err == nil {
		var n int
		if n, err = syscall.Write(fd, message); err == nil && n < len(message) {
			err = syscall.EAGAIN
		}
	}
	return err
}

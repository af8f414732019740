package dataplane

import (
	"errors"

	"golang.org/x/sys/unix"
)

func hasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		// Where there is no memory for a socket, or somebody forbids it, nobody knows: without rules for IPv6 it would go
		// past the proxy.
		return !errors.Is(err, unix.EAFNOSUPPORT)
	}
	_ = unix.Close(fd)
	return true
}

func release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// errnoName returns the name of the errno in an error, such as ENOENT, or "".
func errnoName(err error) string {
	errno, _ := errors.AsType[unix.Errno](err)
	return unix.ErrnoName(errno)
}

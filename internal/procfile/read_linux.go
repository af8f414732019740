package procfile

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// firstRead is more than most of these files have.
const firstRead = 512

// Read is [os.ReadFile] in four system calls: the package os would have every file watched over by epoll(7), and a second
// thread woken for it. These files never wait. The error is an [*fs.PathError].
func Read(path string) ([]byte, error) {
	var fd int
	err := again(func() (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }() // opened for reading
	text := make([]byte, 0, firstRead)
	for {
		var n int
		err := again(func() (err error) {
			n, err = unix.Read(fd, text[len(text):cap(text)])
			return err
		})
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return text, nil
		}
		if text = text[:len(text)+n]; len(text) == cap(text) {
			text = append(text, 0)[:len(text)] // room for more
		}
	}
}

// again makes a system call again that a signal has interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

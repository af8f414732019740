package main

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/infile"
)

// appendLine appends a line to a log file of which, with the one before it,
// there are at most about two times limit bytes. Any number of processes may
// do so at a time: a line is written at once to the end of the file (O_APPEND),
// and who finds the file full renames it under a lock. Nobody waits for the
// lock: the file is then a few lines longer.
func appendLine(path string, limit int64, line []byte) error {
	f, err := openLog(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // nothing is buffered
	if info, err := f.Stat(); err == nil && info.Size() > 0 && info.Size()+int64(len(line)) > limit {
		if fresh, err := rotate(path, f); err == nil {
			defer func() { _ = fresh.Close() }()
			f = fresh
		}
	}
	_, err = f.Write(line)
	return err
}

func openLog(path string) (*os.File, error) {
	const flags = os.O_APPEND | os.O_CREATE | os.O_WRONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK
	f, err := os.OpenFile(path, flags, 0o640)
	if os.IsNotExist(err) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(path, flags, 0o640)
	}
	if err != nil {
		return nil, err
	}
	// Into a FIFO nobody reads, each line would wait for a reader.
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, infile.ErrKind, f.Close())
	}
	return f, nil
}

// rotate renames a full file, unless another has done so since it was opened,
// and returns the new one.
func rotate(path string, full *os.File) (*os.File, error) {
	if err := unix.Flock(int(full.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, err
	}
	held, err := full.Stat()
	if err != nil {
		return nil, err
	}
	if now, err := os.Lstat(path); err == nil && os.SameFile(held, now) {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return openLog(path)
}

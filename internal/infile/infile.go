// Package infile reads files at paths that others have named, or may put
// something at. It waits for nobody: a FIFO that nobody writes into, a writer that
// writes nothing and a device are errors, and what is too long is not read.
package infile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// The errors, each around the path and what is there.
var (
	// ErrKind reports something that is no regular file.
	ErrKind = errors.New("not a regular file")
	// ErrNoWriter reports a FIFO that nobody writes into.
	ErrNoWriter = errors.New("a FIFO that nobody writes into")
	// ErrStalled reports a FIFO whose writer has not come to an end.
	ErrStalled = errors.New("a FIFO whose writer does not come to an end")
	// ErrTooLarge reports a file that is longer than it may be.
	ErrTooLarge = errors.New("too large")
)

// Read returns the content of a regular file of at most so many bytes.
func Read(path string, most int64) ([]byte, error) { return read(path, most, 0) }

// ReadPiped is Read, also of a FIFO, such as a shell's <(program), of which the end
// has to come within a time.
func ReadPiped(path string, most int64, within time.Duration) ([]byte, error) {
	return read(path, most, within)
}

func read(path string, most int64, within time.Duration) ([]byte, error) {
	f, err := open(path, within > 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if within > 0 {
		// It holds for a FIFO, and is no error for what never waits.
		if err := f.SetReadDeadline(time.Now().Add(within)); err != nil && !errors.Is(err, os.ErrNoDeadline) {
			return nil, err
		}
	}
	// One more than the limit tells a file that is too long from one that fits.
	data, err := readAll(f, most+1)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("%s: %w: %d bytes came within %v", path, ErrStalled, len(data), within)
	case err != nil:
		return nil, err
	case int64(len(data)) > most:
		return nil, fmt.Errorf("%s: %w: over %d bytes", path, ErrTooLarge, most)
	case len(data) == 0 && within > 0 && isPipe(f):
		return nil, fmt.Errorf("%s: %w", path, ErrNoWriter)
	}
	return data, nil
}

// readAll is [io.ReadAll] of at most so many bytes, into one piece of the size that the file says that it has.
func readAll(f *os.File, most int64) ([]byte, error) {
	var b bytes.Buffer
	if info, err := f.Stat(); err == nil {
		b.Grow(int(min(max(info.Size(), 0), most)) + bytes.MinRead)
	}
	_, err := b.ReadFrom(io.LimitReader(f, most))
	return b.Bytes(), err
}

// open opens a file without waiting for anybody. It looks first: to open a device
// can do something. What is not there is left to open(2) to say.
func open(path string, piped bool) (*os.File, error) {
	if info, err := os.Stat(path); err == nil {
		if err := check(path, info, piped); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|nonBlock, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = check(path, info, piped) // it may have been replaced
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// check lets directories pass: to read one is an error that says what it is.
func check(path string, info fs.FileInfo, piped bool) error {
	what := "a device"
	switch mode := info.Mode(); {
	case mode.IsRegular(), mode.IsDir(), piped && mode&fs.ModeNamedPipe != 0:
		return nil
	case mode&fs.ModeNamedPipe != 0:
		what = "a FIFO"
	case mode&fs.ModeSocket != 0:
		what = "a socket"
	}
	return fmt.Errorf("%s: %w: it is %s", path, ErrKind, what)
}

func isPipe(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&fs.ModeNamedPipe != 0
}

//go:build linux

package infile

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	fifo, socket := at("fifo"), at("socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(syscall.Mkfifo(fifo, 0o600), os.WriteFile(at("file"), []byte("12345"), 0o600),
		os.WriteFile(at("empty"), nil, 0o600), os.Symlink(fifo, at("link")), os.Symlink("file", at("good"))); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path  string
		most  int64
		want  error // of Read
		piped error // of ReadPiped
	}{
		{at("file"), 5, nil, nil},
		{at("good"), 5, nil, nil},
		{at("empty"), 0, nil, nil},
		{"/proc/self/stat", 4096, nil, nil},
		{at("file"), 4, ErrTooLarge, ErrTooLarge},
		{at("missing"), 4, os.ErrNotExist, os.ErrNotExist},
		{dir, 4, syscall.EISDIR, syscall.EISDIR},
		{fifo, 4, ErrKind, ErrNoWriter},
		{at("link"), 4, ErrKind, ErrNoWriter},
		{socket, 4, ErrKind, ErrKind},
		{"/dev/zero", 4, ErrKind, ErrKind},
	} {
		for want, read := range map[*error]func() ([]byte, error){
			&tt.want:  func() ([]byte, error) { return Read(tt.path, tt.most) },
			&tt.piped: func() ([]byte, error) { return ReadPiped(tt.path, tt.most, time.Minute) },
		} {
			data, err := read()
			if !errors.Is(err, *want) || err != nil && !strings.Contains(err.Error(), tt.path) {
				t.Errorf("%s: %q, %v; want %v", tt.path, data, err, *want)
			}
		}
	}
}

// TestPipe: a writer is waited for, for a while.
func TestPipe(t *testing.T) {
	for name, tt := range map[string]struct {
		write  string
		close  bool
		within time.Duration
		want   error
	}{
		"at once":           {"123", true, time.Minute, nil},
		"too much":          {"123456", false, time.Minute, ErrTooLarge},
		"nothing":           {"", true, time.Minute, ErrNoWriter},
		"a writer that has": {"123", false, 10 * time.Millisecond, ErrStalled},
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString(tt.write); err != nil {
			t.Fatal(err)
		}
		if tt.close {
			w.Close()
		}
		data, err := ReadPiped(pathOf(r), 5, tt.within)
		if !errors.Is(err, tt.want) || err == nil && string(data) != tt.write {
			t.Errorf("%s: %q, %v; want %v", name, data, err, tt.want)
		}
		r.Close()
		w.Close()
	}
	// One that comes late, and writes in parts.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	go func() {
		w.WriteString("ab")
		w.WriteString("c")
		w.Close()
	}()
	if data, err := ReadPiped(pathOf(r), 5, time.Minute); err != nil || string(data) != "abc" {
		t.Errorf("%q, %v", data, err)
	}
}

// pathOf is a path of an open file, as of a shell's <(program).
func pathOf(f *os.File) string { return fmt.Sprint("/proc/self/fd/", f.Fd()) }

package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestResolvConf: what a pod puts in place of its resolv.conf is not waited for,
// and no link leads out of its root.
func TestResolvConf(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("nameserver 192.0.2.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		make func(path string) error
		text string
		err  error
	}{
		"a file": {func(p string) error { return os.WriteFile(p, []byte("nameserver 10.0.0.1\n"), 0o600) },
			"nameserver 10.0.0.1\n", nil},
		"a long one": {func(p string) error { return os.WriteFile(p, make([]byte, 1<<20), 0o600) },
			strings.Repeat("\x00", 64<<10), nil},
		"a FIFO": {func(p string) error { return syscall.Mkfifo(p, 0o600) }, "", ErrNoFile},
		"a FIFO with a writer": {func(p string) error {
			err := syscall.Mkfifo(p, 0o600)
			if err == nil {
				var w *os.File
				w, err = os.OpenFile(p, os.O_RDWR, 0)
				t.Cleanup(func() { w.Close() })
			}
			return err
		}, "", ErrNoFile},
		"a directory":   {func(p string) error { return os.Mkdir(p, 0o755) }, "", ErrNoFile},
		"a socket":      {func(p string) error { return syscall.Mknod(p, syscall.S_IFSOCK|0o600, 0) }, "", syscall.ENXIO},
		"nothing":       {func(string) error { return nil }, "", os.ErrNotExist},
		"a way out":     {func(p string) error { return os.Symlink("../../../../../.."+secret, p) }, "", os.ErrNotExist},
		"a link around": {func(p string) error { return os.Symlink("resolv.conf", p) }, "", syscall.ELOOP},
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "etc", "resolv.conf")
		if err := tt.make(path); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		text, err := Sandbox{PID: 7, root: root}.ResolvConf()
		if text != tt.text || !errors.Is(err, tt.err) || err != nil && !strings.Contains(err.Error(), "of process 7") {
			t.Errorf("%s: %d bytes, %v; want %v", name, len(text), err, tt.err)
		}
		root.Close()
	}
}

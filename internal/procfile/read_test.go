package procfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestRead: what is read is what package os reads, however long it is, and so are the errors.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int{0, 1, 4095, 4096, 4097, 300_000} {
		want := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
	}
	for path, want := range map[string]error{filepath.Join(dir, "none"): fs.ErrNotExist, dir: nil} {
		_, err := Read(path)
		path, isPath := errors.AsType[*fs.PathError](err)
		if !isPath || path.Path == "" || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

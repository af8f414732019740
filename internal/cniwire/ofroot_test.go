//go:build linux

package cniwire

import (
	"net"
	"path/filepath"
	"testing"
)

// TestOfRoot: what root listens at answers its own processes.
func TestOfRoot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "a.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	taken, err := OfRoot(l).Accept()
	if err != nil {
		t.Fatal(err)
	}
	taken.Close()
}

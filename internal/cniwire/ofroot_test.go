//go:build linux

package cniwire

import (
	"net"
	"os"
	"testing"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestOfRoot: a connection of another user's is closed, whatever the socket's mode, and the next is root's.
func TestOfRoot(t *testing.T) {
	netlab.Require(t)
	socket := open(t)
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	var stranger *os.File
	as(t, nobody, func() { stranger, err = connect(socket) })
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	taken, err := OfRoot(l).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if n, err := stranger.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("another user's connection is open: %d, %v", n, err)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	b := make([]byte, 1)
	if _, err := taken.Read(b); err != nil || b[0] != 'x' {
		t.Errorf("root's: %q, %v", b, err)
	}
}

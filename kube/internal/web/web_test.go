package web

import (
	"net"
	"net/netip"
	"testing"
)

// TestCrowd: all together have a limit, too, and who has gone has none.
func TestCrowd(t *testing.T) {
	c := &crowd{each: 2, most: 3, open: map[netip.Prefix]int{}}
	a, b := netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("fd00::/64")
	for i, tt := range []struct {
		peer  netip.Prefix
		leave bool
		want  bool
	}{{a, false, true}, {a, false, true}, {a, false, false}, {b, false, true}, {b, false, false}, {a, true, true},
		{b, false, true}, {b, true, true}, {b, true, true}, {a, false, true}} {
		if tt.leave {
			c.exit(tt.peer)
		} else if got := c.enter(tt.peer); got != tt.want {
			t.Errorf("%d: %v", i, got)
		}
	}
	if c.total != 2 || len(c.open) != 1 {
		t.Errorf("%+v", c)
	}
	for from, want := range map[string]string{"10.0.0.1:5": "10.0.0.1/32", "[::ffff:10.0.0.1]:5": "10.0.0.1/32",
		"[fd00::1:2:3:4]:5": "fd00::/64", "[fe80::1%eth0]:5": "fe80::/64"} {
		if got := peerOf(at{remote: from}).String(); got != want {
			t.Errorf("%s: %s, want %s", from, got, want)
		}
	}
}

// at is a connection from somewhere.
type at struct {
	net.Conn
	remote string
}

func (a at) RemoteAddr() net.Addr { return address(a.remote) }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

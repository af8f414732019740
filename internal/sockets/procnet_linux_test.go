package sockets

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestParseProc: lines of /proc/net/tcp and its siblings as they are on x86 and arm64.
func TestParseProc(t *testing.T) {
	t.Parallel()
	const text = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   1: 0100007F:3A99 020AA8C0:EE48 01 00000000:00000000 00:00000000 00000000  1337        0       42 2 0000000000000000 0 0
  10: 00000000000000000000000000000000:3A9E 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  0        0       11 2 0000000000000000 0 0 0 0 -1
  11: 0000000000000000FFFF00000100007F:3ACD 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000  7        0       12
   2: 0100007F:3A99 020AA8C0:EE48 01 00000000:00000000
   3: 01007F:3A99 020AA8C0:EE48 01 00000000:00000000 00:00000000 00000000  1337        0       42
   4: 0100007F:3A99 020AA8C0:EE48 01 00000000:00000000 00:00000000 00000000  -1        0       42
`
	end := netip.MustParseAddrPort
	want := []listed{
		{Socket: Socket{Local: end("127.0.0.1:15001"), UID: 1337, Inode: 42}, peer: end("192.168.10.2:61000"), state: 1},
		{Socket: Socket{Local: end("[::]:15006"), Inode: 11}, peer: end("[::]:0"), state: 10},
		{Socket: Socket{Local: end("127.0.0.1:15053"), UID: 7, Inode: 12}, peer: end("[::]:0"), state: 7},
	}
	same := cmp.Options{cmp.AllowUnexported(listed{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })}
	if diff := cmp.Diff(want, parseProc(text), same); diff != "" {
		t.Error(diff)
	}
}

// FuzzParseProc: whatever the file says is read or passed over.
func FuzzParseProc(f *testing.F) {
	f.Add("   1: 0100007F:3A99 020AA8C0:EE48 01 00000000:00000000 00:00000000 00000000  1337        0       42\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range parseProc(text) {
			if !s.Local.IsValid() || !s.peer.IsValid() {
				t.Errorf("%+v", s)
			}
		}
	})
}

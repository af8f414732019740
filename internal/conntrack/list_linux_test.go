package conntrack

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// newNamespace makes a namespace that has the entries.
func newNamespace(t *testing.T, entries ...netlab.Entry) *netlab.Namespace {
	t.Helper()
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, e := range entries {
		if err := ns.AddEntry(e); err != nil {
			t.Fatal(err)
		}
	}
	return ns
}

// list lists what the namespace has, by how it begins and its zone.
func list(t *testing.T, ns *netlab.Namespace) map[begun]Entry {
	t.Helper()
	all := map[begun]Entry{}
	err := ns.Do(func() error {
		return Each(func(e Entry) {
			all[begun{e.Original, e.Zone}] = e
			if e.Status == 0 {
				t.Errorf("%+v has no status", e)
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

type begun struct {
	Ends
	zone uint16
}

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

var (
	plain  = netlab.Entry{Protocol: ruleset.UDP, Src: at("10.0.0.1:61000"), Dst: at("10.0.0.53:53")}
	zoned  = netlab.Entry{Protocol: ruleset.UDP, Src: plain.Src, Dst: plain.Dst, Zone: 7}
	marked = netlab.Entry{Protocol: ruleset.TCP, Src: at("[fd00::1]:40000"), Dst: at("[fd00::2]:80"), Mark: 0x1336}
	sent   = netlab.Entry{Protocol: ruleset.TCP, Src: at("10.0.0.1:40000"), Dst: at("10.0.0.2:80"),
		To: at("127.0.0.1:15001"), TCP: netlab.TCPSynSent}
)

// TestSupported: a kernel on which tests run lists connections. Where it cannot is in testing/kernels.
func TestSupported(t *testing.T) {
	if err := newNamespace(t).Do(Supported); err != nil {
		t.Error(err)
	}
}

// TestEach: entries of both families, of zones, with marks and with NAT.
func TestEach(t *testing.T) {
	all := list(t, newNamespace(t, plain, zoned, marked, sent))
	type want struct {
		to         string // "" is where it was sent
		state      string
		mark       uint32
		zone       uint16
		translated bool
	}
	for _, tt := range []struct {
		netlab.Entry
		want
	}{
		{plain, want{}},
		{zoned, want{zone: 7}},
		{marked, want{state: "ESTABLISHED", mark: 0x1336}},
		{sent, want{to: "127.0.0.1:15001", state: "SYN_SENT", translated: true}},
	} {
		begins := Ends{Protocol: tt.Protocol, Src: tt.Src, Dst: tt.Dst}
		e, known := all[begun{begins, tt.zone}]
		to, is := e.Translated()
		if tt.to == "" {
			tt.to = tt.Dst.String()
		}
		got := want{to.String(), e.TCPState, e.Mark, e.Zone, is}
		if !known || got != tt.want || e.Reply.Dst != tt.Src || e.Reply.Protocol != tt.Protocol {
			t.Errorf("%+v: known %t, %+v", tt.Entry, known, e)
		}
	}
	if len(all) != 4 {
		t.Errorf("%d entries: %+v", len(all), all)
	}
}

// TestEachOfMany: more than the kernel describes at once.
func TestEachOfMany(t *testing.T) {
	const many = 5000
	ns := newNamespace(t)
	_, made, err := ns.FillEntries(func(yield func(netlab.Entry) bool) {
		for i := range uint16(many) {
			e := marked
			e.Src = netip.AddrPortFrom(e.Src.Addr(), 1000+i)
			if !yield(e) {
				return
			}
		}
	})
	if got := len(list(t, ns)); err != nil || made != many || got != many {
		t.Errorf("%d of %d entries, %v", got, made, err)
	}
}

// TestDelete: what is matched is out, in its zone alone.
func TestDelete(t *testing.T) {
	ns := newNamespace(t, plain, zoned, marked, sent)
	err := ns.Do(func() error {
		return Delete(func(e Entry) bool { return e.Zone == 7 || e.Original.Src.Addr().Is6() })
	})
	if err != nil {
		t.Fatal(err)
	}
	all := list(t, ns)
	for _, e := range []netlab.Entry{plain, sent} {
		if _, stays := all[begun{Ends{e.Protocol, e.Src, e.Dst}, e.Zone}]; !stays || len(all) != 2 {
			t.Errorf("%+v stays: %t; there are %+v", e, stays, all)
		}
	}
}

// TestNoPrivilege: without CAP_NET_ADMIN nothing is told.
func TestNoPrivilege(t *testing.T) {
	ns := newNamespace(t, plain)
	err := ns.Do(func() error { // on a thread that ends
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		if err := Supported(); !errors.Is(err, ruleset.ErrPermission) {
			t.Errorf("Supported: %v, want ErrPermission", err)
		}
		return Each(func(e Entry) { t.Errorf("told of %+v", e) })
	})
	if !errors.Is(err, ruleset.ErrPermission) {
		t.Errorf("Each: %v, want ErrPermission", err)
	}
}

//go:build linux

package netlab_test

import (
	"encoding/json"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestVM meets every fate there is on the way from the VM. TestPass has what
// meets none.
func TestVM(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{SecondInterface: true, VM: true})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	nft(t, lab, `
		table inet t {
			chain nat-prerouting {
				type nat hook prerouting priority -100
				iifname != "br-vm" accept
				tcp dport 53 redirect to :15053
				udp dport 53 redirect to :15053
				tcp dport 80 redirect to :15001
				tcp dport 83 dnat ip to 203.0.113.8:84
				udp dport 83 dnat ip to 203.0.113.8:84
				tcp dport 83 dnat ip6 to [2001:db8::8]:84
				udp dport 83 dnat ip6 to [2001:db8::8]:84
			}
			chain prerouting {
				type filter hook prerouting priority 0
				iifname != "br-vm" accept
				tcp dport 81 reject with tcp reset
				udp dport 81 reject
				th dport 82 drop
			}
			chain forward {
				type filter hook forward priority 0
				iifname "br-vm" th dport 85 reject
			}
			chain input {
				type filter hook input priority 0
				iifname "br-vm" th dport 85 reject
			}
		}`)
	reject, drop := intercept.Fate{Action: intercept.Rejected}, intercept.Fate{Action: intercept.Dropped}
	translated := map[bool]intercept.Fate{
		true:  {Action: intercept.Translated, To: addr("203.0.113.8:84")},
		false: {Action: intercept.Translated, To: addr("[2001:db8::8]:84")},
	}
	var wg sync.WaitGroup
	for _, test := range []struct {
		from  netlab.Side
		proto intercept.Protocol
		port  uint16
		want  intercept.Fate
	}{
		{netlab.FromVM, udp, 53, intercept.RedirectedTo(15053)},
		{netlab.FromVM, tcp, 53, intercept.RedirectedTo(15053)},
		{netlab.FromVM, tcp, 80, intercept.RedirectedTo(15001)},
		{netlab.FromVM, udp, 80, intercept.Fate{}},
		{netlab.FromVM, tcp, 81, reject},
		{netlab.FromVM, udp, 81, reject},
		{netlab.FromVM, tcp, 82, drop},
		{netlab.FromVM, udp, 82, drop},
		{netlab.FromVM, tcp, 83, intercept.Fate{Action: intercept.Translated}},
		{netlab.FromVM, udp, 83, intercept.Fate{Action: intercept.Translated}},
		{netlab.FromVM, tcp, 84, intercept.Fate{}},
		{netlab.FromVM, udp, 84, intercept.Fate{}},
		{netlab.FromVM, tcp, 85, reject},
		{netlab.FromVM, udp, 85, reject},
		// Others go another way, whatever interface they arrive by.
		{netlab.FromPod, tcp, 80, intercept.Fate{}},
		{netlab.FromPod, udp, 53, intercept.Fate{}},
		{netlab.FromPeer, tcp, 80, intercept.Fate{}},
		{netlab.FromPeer, udp, 53, intercept.Fate{}},
	} {
		dsts := []string{"203.0.113.7", "2001:db8::7", "198.51.100.1", "2001:db8:1::1", "10.244.0.5", "fd00:244::5",
			"10.246.0.1", "fd00:246::1"}
		if test.from == netlab.FromPeer {
			dsts = dsts[4:6]
		}
		for _, dst := range dsts {
			f := netlab.Flow{From: test.from, Protocol: test.proto, Timeout: 10 * time.Second}
			f.Dst = netip.AddrPortFrom(netip.MustParseAddr(dst), test.port)
			want := test.want
			if want == drop {
				f.Timeout = 100 * time.Millisecond
			}
			if want.Action == intercept.Translated {
				want = translated[f.Dst.Addr().Is4()]
			}
			wg.Go(func() { // some take the kernel a second
				got, err := lab.Send(f)
				if err != nil {
					t.Error(err)
					return
				}
				if !got.Is(want) {
					t.Errorf("%s: %s; want %s", f, got, want)
				}
				if got.Client != got.Source || got.Role != "" && got.Client.Addr() != f.Packet(lab).Src.Addr() {
					t.Errorf("%s: sent by %s, foretold as of %s; %s", f, got.Source, f.Packet(lab).Src, got)
				}
			})
		}
	}
	wg.Wait()

	for _, dst := range []string{"203.0.113.7:53", "[2001:db8::7]:53"} {
		for _, typ := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
			conn := dialDNS(t, lab.VM, typ, addr(dst))
			text := ask(t, conn, typ == unix.SOCK_STREAM, dnsmessage.TypeTXT)
			conn.Close()
			var b netlab.Banner
			if err := json.Unmarshal([]byte(text), &b); err != nil || b.Role != netlab.RoleDNS {
				t.Errorf("%s: the TXT record is %s, %v; want the sidecar's banner", dst, text, err)
			}
		}
	}
}

// TestVMPacket foretells the VM's flows without a lab.
func TestVMPacket(t *testing.T) {
	lab := netlab.OnPaper(netlab.Options{VM: true})
	for _, test := range []struct{ src, dst, want string }{
		{"", "203.0.113.7:80", "10.246.0.5"},
		{"", "[2001:db8::7]:80", "fd00:246::5"},
		{"", "10.244.0.5:80", "10.246.0.5"},
		{"10.246.0.77:5353", "10.246.0.1:53", "10.246.0.77"},
	} {
		f := netlab.Flow{From: netlab.FromVM, Protocol: udp, Dst: addr(test.dst), Owner: app}
		if test.src != "" {
			f.Src = addr(test.src)
		}
		p := f.Packet(lab)
		if p.Hook != intercept.Prerouting || p.Interface != "br-vm" || p.Owner != nil || p.Protocol != udp ||
			p.Src.Addr().String() != test.want || p.Dst != f.Dst {
			t.Errorf("%s: Packet is %+v", f, p)
		}
	}
	// Without a VM there is nothing to foretell, and nothing to panic about.
	f := netlab.Flow{From: netlab.FromVM, Protocol: tcp, Dst: addr("203.0.113.7:80")}
	if p := f.Packet(netlab.OnPaper(netlab.Options{})); p.Interface != "" || p.Src.Addr().IsValid() {
		t.Errorf("%s: without a VM Packet is %+v", f, p)
	}
}

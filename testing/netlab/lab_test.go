//go:build linux

package netlab_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

const (
	tcp = intercept.TCP
	udp = intercept.UDP
)

var app = &intercept.Owner{UID: 1000, GID: 1000}

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// TestPass sends every kind of flow without any rules: what was asked answers,
// and sees the source that Packet foretells.
func TestPass(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{SecondInterface: true, VM: true})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	zero := netip.AddrPort{}
	anyPort := func(s string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(s), 0) }
	for _, test := range []struct {
		from      netlab.Side
		src       netip.AddrPort
		dst       string
		role      netlab.Role
		src2, dev string // what Packet foretells
	}{
		{netlab.FromPod, zero, "203.0.113.7:80", netlab.RolePeer, "10.244.0.5", "eth0"},
		{netlab.FromPod, zero, "[2001:db8::7]:80", netlab.RolePeer, "fd00:244::5", "eth0"},
		{netlab.FromPod, zero, "203.0.113.7:1", netlab.RolePeer, "10.244.0.5", "eth0"},
		{netlab.FromPod, zero, "203.0.113.7:65535", netlab.RolePeer, "10.244.0.5", "eth0"},
		{netlab.FromPod, zero, "10.244.0.1:53", netlab.RolePeer, "10.244.0.5", "eth0"},
		{netlab.FromPod, zero, "[fd00:244::1]:53", netlab.RolePeer, "fd00:244::5", "eth0"},
		{netlab.FromPod, zero, "10.244.0.99:80", netlab.RolePeer, "10.244.0.5", "eth0"},
		{netlab.FromPod, zero, "[fd00:244::99]:80", netlab.RolePeer, "fd00:244::5", "eth0"},
		{netlab.FromPod, zero, "198.51.100.1:80", netlab.RolePeer, "10.245.0.5", "net1"},
		{netlab.FromPod, zero, "[2001:db8:1::1]:80", netlab.RolePeer, "fd00:245::5", "net1"},
		{netlab.FromPod, zero, "10.245.0.99:80", netlab.RolePeer, "10.245.0.5", "net1"},
		{netlab.FromPod, zero, "[fd00:245::99]:80", netlab.RolePeer, "fd00:245::5", "net1"},
		{netlab.FromPod, addr("10.244.0.5:5353"), "203.0.113.7:53", netlab.RolePeer, "10.244.0.5", "eth0"},
		{netlab.FromPod, zero, "127.0.0.1:80", netlab.RoleApp, "127.0.0.1", "lo"},
		{netlab.FromPod, zero, "127.9.9.9:80", netlab.RoleApp, "127.0.0.1", "lo"},
		{netlab.FromPod, zero, "[::1]:80", netlab.RoleApp, "::1", "lo"},
		{netlab.FromPod, zero, "10.244.0.5:80", netlab.RoleApp, "10.244.0.5", "lo"},
		{netlab.FromPod, zero, "[fd00:244::5]:80", netlab.RoleApp, "fd00:244::5", "lo"},
		{netlab.FromPod, zero, "10.245.0.5:80", netlab.RoleApp, "10.245.0.5", "lo"},
		{netlab.FromPod, anyPort("127.0.0.6"), "127.0.0.1:80", netlab.RoleApp, "127.0.0.6", "lo"},
		{netlab.FromPod, anyPort("127.0.0.6"), "10.244.0.5:80", netlab.RoleApp, "127.0.0.6", "lo"},
		{netlab.FromPod, anyPort("::6"), "[::1]:80", netlab.RoleApp, "::6", "lo"},
		{netlab.FromPod, anyPort("::6"), "[fd00:244::5]:80", netlab.RoleApp, "::6", "lo"},
		{netlab.FromPod, zero, "[::6]:80", netlab.RoleApp, "::6", "lo"},
		{netlab.FromPod, zero, "10.244.0.5:15053", netlab.RoleApp, "10.244.0.5", "lo"},
		{netlab.FromPod, zero, "127.0.0.1:15053", netlab.RoleDNS, "127.0.0.1", "lo"},
		{netlab.FromPod, zero, "[::1]:15053", netlab.RoleDNS, "::1", "lo"},
		{netlab.FromPeer, zero, "10.244.0.5:80", netlab.RoleApp, "10.244.0.1", "eth0"},
		{netlab.FromPeer, zero, "[fd00:244::5]:80", netlab.RoleApp, "fd00:244::1", "eth0"},
		{netlab.FromPeer, zero, "10.245.0.5:80", netlab.RoleApp, "10.245.0.1", "net1"},
		{netlab.FromPeer, zero, "[fd00:245::5]:80", netlab.RoleApp, "fd00:245::1", "net1"},
		{netlab.FromPeer, anyPort("203.0.113.9"), "10.244.0.5:80", netlab.RoleApp, "203.0.113.9", "eth0"},
		{netlab.FromPeer, addr("203.0.113.9:53"), "10.244.0.5:80", netlab.RoleApp, "203.0.113.9", "eth0"},
		{netlab.FromPeer, anyPort("203.0.113.9"), "10.245.0.5:80", netlab.RoleApp, "203.0.113.9", "net1"},
		{netlab.FromPeer, anyPort("2001:db8::9"), "[fd00:244::5]:80", netlab.RoleApp, "2001:db8::9", "eth0"},
		{netlab.FromPeer, addr("[2001:db8::9]:53"), "[fd00:245::5]:80", netlab.RoleApp, "2001:db8::9", "net1"},
		{netlab.FromPod, zero, "10.246.0.1:80", netlab.RoleApp, "10.246.0.1", "lo"},
		{netlab.FromPod, zero, "[fd00:246::1]:80", netlab.RoleApp, "fd00:246::1", "lo"},
		{netlab.FromVM, zero, "203.0.113.7:80", netlab.RolePeer, "10.246.0.5", "br-vm"},
		{netlab.FromVM, zero, "[2001:db8::7]:80", netlab.RolePeer, "fd00:246::5", "br-vm"},
		{netlab.FromVM, zero, "198.51.100.1:80", netlab.RolePeer, "10.246.0.5", "br-vm"},
		{netlab.FromVM, zero, "[2001:db8:1::1]:80", netlab.RolePeer, "fd00:246::5", "br-vm"},
		{netlab.FromVM, zero, "10.244.0.1:53", netlab.RolePeer, "10.246.0.5", "br-vm"},
		{netlab.FromVM, zero, "[fd00:244::99]:53", netlab.RolePeer, "fd00:246::5", "br-vm"},
		{netlab.FromVM, zero, "10.244.0.5:80", netlab.RoleApp, "10.246.0.5", "br-vm"},
		{netlab.FromVM, zero, "[fd00:244::5]:80", netlab.RoleApp, "fd00:246::5", "br-vm"},
		{netlab.FromVM, zero, "10.245.0.5:80", netlab.RoleApp, "10.246.0.5", "br-vm"},
		{netlab.FromVM, zero, "10.246.0.1:80", netlab.RoleApp, "10.246.0.5", "br-vm"},
		{netlab.FromVM, zero, "[fd00:246::1]:80", netlab.RoleApp, "fd00:246::5", "br-vm"},
		{netlab.FromVM, zero, "10.246.0.1:15053", netlab.RoleDNS, "10.246.0.5", "br-vm"},
		{netlab.FromVM, zero, "[fd00:246::1]:15053", netlab.RoleDNS, "fd00:246::5", "br-vm"},
		{netlab.FromVM, addr("10.246.0.5:5353"), "203.0.113.7:53", netlab.RolePeer, "10.246.0.5", "br-vm"},
		{netlab.FromVM, addr("[fd00:246::5]:5353"), "[2001:db8::7]:53", netlab.RolePeer, "fd00:246::5", "br-vm"},
	} {
		for _, proto := range []intercept.Protocol{tcp, udp} {
			for _, owner := range []*intercept.Owner{nil, app} {
				f := netlab.Flow{From: test.from, Protocol: proto, Src: test.src, Dst: addr(test.dst), Owner: owner}
				got, err := lab.Send(f)
				if err != nil {
					t.Error(err)
					continue
				}
				if got.Fate != (intercept.Fate{}) || got.Role != test.role || got.Local != f.Dst {
					t.Errorf("%s: %s", f, got)
				}
				p := f.Packet(lab)
				if p.Src.Addr() != got.Client.Addr() || p.Src.Addr().String() != test.src2 || p.Interface != test.dev {
					t.Errorf("%s: Packet foretells source %s and interface %s; the server sees %s", f, p.Src, p.Interface, got.Client)
				}
				if f.Src.Port() != 0 && got.Client.Port() != f.Src.Port() {
					t.Errorf("%s: comes from port %d", f, got.Client.Port())
				}
				if got.Source != got.Client || got.Via != (netlab.Banner{}) {
					t.Errorf("%s: sent by %s; %s", f, got.Source, got)
				}
			}
		}
	}
}

// TestRedirect puts one rule into the pod by hand.
func TestRedirect(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	redirectUser(t, lab, app.UID, 15001)
	for _, dst := range []string{"203.0.113.7:80", "[2001:db8::7]:80", "127.0.0.1:80", "[::1]:80", "10.244.0.5:80"} {
		for _, test := range []struct {
			proto intercept.Protocol
			owner *intercept.Owner
			want  intercept.Fate
		}{
			{tcp, app, intercept.RedirectedTo(15001)},
			{tcp, nil, intercept.Fate{}},
			{tcp, &intercept.Owner{UID: 1337, GID: 1000}, intercept.Fate{}},
			{udp, app, intercept.Fate{}},
		} {
			f := netlab.Flow{Protocol: test.proto, Dst: addr(dst), Owner: test.owner}
			got, err := lab.Send(f)
			if err != nil {
				t.Error(err)
			} else if !got.Is(test.want) || got.Fate != test.want {
				t.Errorf("%s: %s; want %s", f, got, test.want)
			} else if got.Original != f.Dst {
				t.Errorf("%s: original destination %s", f, got.Original)
			}
		}
	}
}

// redirectUser redirects the TCP connections of one of the pod's users, without
// a program that may be missing.
func redirectUser(t *testing.T, lab *netlab.Lab, uid uint32, port uint16) {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(lab.Pod.FD()))
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "by-hand"})
	chain := c.AddChain(&nftables.Chain{
		Name: "output", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityNATDest,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Meta{Key: expr.MetaKeySKUID, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(uid)},
		&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Redir{RegisterProtoMin: 1},
	}})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// nft puts rules into the pod with nft(8), run by Start.
func nft(t *testing.T, lab *netlab.Lab, rules string) {
	t.Helper()
	runInPod(t, lab, rules, "nft", "-f", "-")
}

// runInPod runs a program with an input.
func runInPod(t *testing.T, lab *netlab.Lab, input, program string, args ...string) {
	t.Helper()
	netlab.RequireProgram(t, program)
	cmd := exec.Command(program, args...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
	err := lab.Pod.Start(cmd, nil)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", cmd, err, &out)
	}
}

// TestFates meets every fate there is, in both directions and families.
func TestFates(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{
		Outbound:    intercept.PortRange{First: 15001, Last: 15003},
		Transparent: true,
	}); err != nil {
		t.Fatal(err)
	}
	nft(t, lab, `
		table inet t {
			chain nat-output {
				type nat hook output priority -100
				skuid 1337 accept
				udp dport 53 redirect to :15053
				tcp dport { 80, 15001 } redirect to :15001-15003
				tcp dport 83 dnat ip to 203.0.113.8:84
				udp dport 83 dnat ip to 203.0.113.8:84
				tcp dport 83 dnat ip6 to [2001:db8::8]:84
				udp dport 83 dnat ip6 to [2001:db8::8]:84
			}
			chain output {
				type filter hook output priority 0
				tcp dport 81 reject with tcp reset
				udp dport 81 reject
				th dport 85 reject with icmpx admin-prohibited
				th dport 86 reject
				th dport 82 drop
			}
			chain nat-prerouting {
				type nat hook prerouting priority -100
				tcp dport { 80, 15006 } redirect to :15006
			}
			chain prerouting {
				type filter hook prerouting priority -150
				tcp dport 87 tproxy to :15006
				th dport 82 drop
			}
			chain input {
				type filter hook input priority 0
				th dport 86 reject
			}
		}`)
	reject, drop := intercept.Fate{Action: intercept.Rejected}, intercept.Fate{Action: intercept.Dropped}
	proxy := &intercept.Owner{UID: 1337, GID: 1337}
	var wg sync.WaitGroup
	for _, test := range []struct {
		from  netlab.Side
		proto intercept.Protocol
		port  uint16
		owner *intercept.Owner
		want  intercept.Fate
	}{
		{netlab.FromPod, udp, 53, nil, intercept.RedirectedTo(15053)},
		{netlab.FromPod, udp, 53, proxy, intercept.Fate{}},
		{netlab.FromPod, tcp, 53, nil, intercept.Fate{}},
		{netlab.FromPod, tcp, 80, nil,
			intercept.Fate{Action: intercept.Redirected, Ports: intercept.PortRange{First: 15001, Last: 15003}}},
		{netlab.FromPod, tcp, 15001, nil,
			intercept.Fate{Action: intercept.Redirected, Ports: intercept.PortRange{First: 15001, Last: 15003}}},
		{netlab.FromPod, tcp, 80, proxy, intercept.Fate{}},
		{netlab.FromPod, tcp, 81, nil, reject},
		{netlab.FromPod, udp, 81, nil, reject},
		{netlab.FromPod, tcp, 82, nil, drop},
		{netlab.FromPod, udp, 82, nil, drop},
		{netlab.FromPod, tcp, 85, nil, reject},
		{netlab.FromPod, udp, 85, nil, reject},
		{netlab.FromPod, tcp, 86, nil, reject},
		{netlab.FromPod, udp, 86, nil, reject},
		{netlab.FromPeer, tcp, 80, nil, intercept.RedirectedTo(15006)},
		{netlab.FromPeer, tcp, 15006, nil, intercept.RedirectedTo(15006)},
		{netlab.FromPeer, tcp, 15001, nil, intercept.Fate{}},
		{netlab.FromPeer, udp, 80, nil, intercept.Fate{}},
		{netlab.FromPeer, tcp, 82, nil, drop},
		{netlab.FromPeer, udp, 82, nil, drop},
		{netlab.FromPeer, tcp, 86, nil, reject},
		{netlab.FromPeer, udp, 86, nil, reject},
		{netlab.FromPeer, tcp, 87, nil, intercept.Fate{Action: intercept.Transparent, Ports: intercept.Port(15006)}},
	} {
		dsts := []string{"203.0.113.7", "2001:db8::7", "10.244.0.5", "fd00:244::5", "127.0.0.1", "::1"}
		if test.from == netlab.FromPeer {
			dsts = dsts[2:4]
		}
		for _, dst := range dsts {
			f := netlab.Flow{From: test.from, Protocol: test.proto, Owner: test.owner, Timeout: 10 * time.Second}
			f.Dst = netip.AddrPortFrom(netip.MustParseAddr(dst), test.port)
			if test.want == drop {
				f.Timeout = 100 * time.Millisecond
			}
			wg.Go(func() { // some take the kernel a second
				got, err := lab.Send(f)
				if err != nil {
					t.Error(err)
				} else if !got.Is(test.want) {
					t.Errorf("%s: %s; want %s", f, got, test.want)
				}
			})
		}
	}
	wg.Wait()
	for _, proto := range []intercept.Protocol{tcp, udp} {
		for dst, to := range map[string]string{"203.0.113.7:83": "203.0.113.8:84", "[2001:db8::7]:83": "[2001:db8::8]:84"} {
			f := netlab.Flow{Protocol: proto, Dst: addr(dst)}
			got, err := lab.Send(f)
			if err != nil {
				t.Error(err)
			} else if want := (intercept.Fate{Action: intercept.Translated, To: addr(to)}); got.Fate != want {
				t.Errorf("%s: %s; want %s", f, got, want)
			}
		}
	}
}

// TestMark sends marked flows past rules that look at the mark alone.
func TestMark(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	nft(t, lab, `
		table inet t {
			chain nat-output {
				type nat hook output priority -100
				meta mark 0x539 meta l4proto tcp redirect to :15001
			}
			chain output {
				type filter hook output priority 0
				meta mark 0xfffffffe reject
			}
		}`)
	var wg sync.WaitGroup
	for _, dst := range []string{"203.0.113.7:80", "[2001:db8::7]:80", "127.0.0.1:80", "[::1]:80"} {
		for _, test := range []struct {
			proto intercept.Protocol
			mark  uint32
			want  intercept.Fate
		}{
			{tcp, 0, intercept.Fate{}},
			{tcp, 0x539, intercept.RedirectedTo(15001)},
			{udp, 0x539, intercept.Fate{}},
			{tcp, 0x53a, intercept.Fate{}},
			{tcp, 0xfffffffe, intercept.Fate{Action: intercept.Rejected}},
			{udp, 0xfffffffe, intercept.Fate{Action: intercept.Rejected}},
		} {
			f := netlab.Flow{Protocol: test.proto, Dst: addr(dst), Owner: app, Mark: test.mark, Timeout: 10 * time.Second}
			if p := f.Packet(lab); p.Mark != test.mark {
				t.Errorf("%s: Packet has mark %#x", f, p.Mark)
			}
			wg.Go(func() { // some take the kernel a second
				got, err := lab.Send(f)
				if err != nil {
					t.Error(err)
				} else if got.Fate != test.want {
					t.Errorf("%s: %s; want %s", f, got, test.want)
				}
			})
		}
	}
	wg.Wait()
}

// TestFlowString describes flows with all that sets them apart.
func TestFlowString(t *testing.T) {
	for want, f := range map[string]netlab.Flow{
		"tcp from pod to 203.0.113.7:80 as 1000:1000 with mark 0x539": {
			Protocol: tcp, Dst: addr("203.0.113.7:80"), Owner: app, Mark: 1337},
		"udp from pod (port 53) to [::1]:80 as 0:0": {Protocol: udp, Src: netip.AddrPortFrom(netip.Addr{}, 53),
			Dst: addr("[::1]:80")},
		"tcp from peer (203.0.113.9:0) to 10.244.0.5:80": {Protocol: tcp, From: netlab.FromPeer, Src: addr("203.0.113.9:0"),
			Dst: addr("10.244.0.5:80")},
		"udp from vm to 203.0.113.7:53": {Protocol: udp, From: netlab.FromVM, Dst: addr("203.0.113.7:53"), Owner: app},
	} {
		if got := f.String(); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

// TestIs compares deliveries that no flow above tells apart.
func TestIs(t *testing.T) {
	redirected := func(port uint16) netlab.Delivery {
		return netlab.Delivery{
			Fate: intercept.RedirectedTo(port), Banner: netlab.Banner{Role: netlab.RoleOutbound, Port: port}}
	}
	direct := redirected(15001)
	direct.Fate = intercept.Fate{}
	relayed := netlab.Delivery{Fate: intercept.RedirectedTo(15006), Banner: netlab.Banner{Role: netlab.RoleApp, Port: 80}}
	relayed.Via = netlab.Banner{Role: netlab.RoleInbound, Port: 15006}
	elsewhere := netlab.Delivery{Banner: netlab.Banner{Role: netlab.RolePeer, Port: 15001}}
	several := intercept.Fate{Action: intercept.Redirected, Ports: intercept.PortRange{First: 15001, Last: 15002}}
	for _, test := range []struct {
		d    netlab.Delivery
		f    intercept.Fate
		want bool
	}{
		{redirected(15001), intercept.RedirectedTo(15001), true},
		{redirected(15002), several, true},
		{redirected(15003), several, false},
		{redirected(15001), intercept.Fate{}, false},
		{redirected(15001), intercept.Fate{Action: intercept.Transparent, Ports: intercept.Port(15001)}, false},
		{direct, intercept.Fate{}, true},
		{direct, intercept.RedirectedTo(15001), true},
		{direct, intercept.RedirectedTo(15002), false},
		{relayed, intercept.RedirectedTo(15006), true},
		{relayed, intercept.RedirectedTo(80), false},
		{relayed, intercept.Fate{}, false},
		{elsewhere, intercept.Fate{}, true},
		{elsewhere, intercept.RedirectedTo(15001), false},
		{netlab.Delivery{Fate: intercept.Fate{Action: intercept.Dropped}}, intercept.Fate{}, false},
		{netlab.Delivery{Fate: intercept.Fate{Action: intercept.Dropped}}, intercept.Fate{Action: intercept.Dropped}, true},
	} {
		if got := test.d.Is(test.f); got != test.want {
			t.Errorf("%s Is(%s) = %t", test.d, test.f, got)
		}
	}
}

// TestBadFlow asks for what cannot be sent.
func TestBadFlow(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{VM: true})
	for _, f := range []netlab.Flow{
		{},
		{Protocol: intercept.ICMP, Dst: addr("203.0.113.7:80")},
		{Protocol: tcp},
		{Protocol: tcp, Dst: addr("203.0.113.7:0")},
		{Protocol: tcp, Dst: addr("[::ffff:203.0.113.7]:80")},
		{Protocol: tcp, Src: addr("[::1]:0"), Dst: addr("203.0.113.7:80")},
		{Protocol: tcp, Src: addr("203.0.113.9:0"), Dst: addr("203.0.113.7:80")},
		{Protocol: tcp, Dst: addr("203.0.113.7:80"), From: netlab.FromPeer},
		{Protocol: tcp, Dst: addr("10.245.0.5:80"), From: netlab.FromPeer},
		{Protocol: tcp, Dst: addr("10.246.0.1:80"), From: netlab.FromPeer},
		{Protocol: tcp, Dst: addr("10.244.0.5:80"), From: netlab.FromPeer, Mark: 1},
		{Protocol: tcp, Dst: addr("203.0.113.7:80"), From: netlab.FromVM, Mark: 1},
		{Protocol: tcp, Dst: addr("127.0.0.1:80"), From: netlab.FromVM},
		{Protocol: tcp, Dst: addr("[::1]:80"), From: netlab.FromVM},
		{Protocol: tcp, Dst: addr("[::6]:80"), From: netlab.FromVM},
		{Protocol: tcp, Dst: addr("10.246.0.5:80"), From: netlab.FromVM},
		{Protocol: tcp, Dst: addr("203.0.113.7:80"), From: netlab.FromVM, Src: addr("203.0.113.9:0")},
		{Protocol: tcp, Dst: addr("203.0.113.7:80"), From: netlab.FromVM + 1},
	} {
		if d, err := lab.Send(f); err == nil {
			t.Errorf("%s: %s; want an error", f, d)
		}
	}
	plain := netlab.NewT(t, netlab.Options{})
	for _, f := range []netlab.Flow{
		{Protocol: tcp, Dst: addr("203.0.113.7:80"), From: netlab.FromVM},
		{Protocol: tcp, Dst: addr("10.245.0.5:80"), From: netlab.FromPeer},
	} {
		if d, err := plain.Send(f); err == nil {
			t.Errorf("%s: %s; want an error", f, d)
		}
	}
}

// TestDial keeps connections open and talks over them.
func TestDial(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{})
	for _, dst := range []string{"203.0.113.7:80", "[2001:db8::7]:80", "127.0.0.1:80"} {
		conn, d, err := lab.Dial(netlab.Flow{Protocol: tcp, Dst: addr(dst), Owner: app})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if conn.LocalAddr().String() != d.Client.String() || conn.RemoteAddr().String() != dst {
			t.Errorf("connection of %s to %s; want of %s to %s", conn.LocalAddr(), conn.RemoteAddr(), d.Client, dst)
		}
		want := bytes.Repeat([]byte("all that is sent comes back\n"), 10_000)
		go func() {
			conn.Write(want)
			conn.(*net.TCPConn).CloseWrite()
		}()
		if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes came back of %d, %v", dst, len(got), len(want), err)
		}

		conn, d, err = lab.Dial(netlab.Flow{Protocol: udp, Dst: addr(dst), Owner: app})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 3 {
			if _, err := conn.Write([]byte("who is there?")); err != nil {
				t.Fatal(err)
			}
			var b netlab.Banner
			if err := json.NewDecoder(conn).Decode(&b); err != nil || b != d.Banner {
				t.Errorf("%s: the banner is %+v, %v; it was %+v", dst, b, err, d.Banner)
			}
		}
	}
	nft(t, lab, `
		table inet t {
			chain output {
				type filter hook output priority 0
				th dport 99 drop
			}
		}`)
	conn, d, err := lab.Dial(netlab.Flow{Protocol: tcp, Dst: addr("203.0.113.7:99"), Timeout: time.Millisecond})
	if conn != nil || d.Fate.Action != intercept.Dropped || err != nil {
		t.Errorf("a dropped flow: %v, %s, %v", conn, d, err)
	}
}

// TestDNS asks the sidecar's resolver and the peer, over UDP and TCP.
func TestDNS(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{DNSPort: 5353}); err != nil {
		t.Fatal(err)
	}
	for dst, role := range map[string]netlab.Role{
		"127.0.0.1:5353":    netlab.RoleDNS,
		"[::1]:5353":        netlab.RoleDNS,
		"10.96.0.10:53":     netlab.RolePeer,
		"[2001:db8::10]:53": netlab.RolePeer,
	} {
		for _, typ := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
			conn := dialDNS(t, lab.Pod, typ, addr(dst))
			var texts []string
			for _, q := range []struct {
				typ  dnsmessage.Type
				want string
			}{
				{dnsmessage.TypeA, "192.0.2.53"},
				{dnsmessage.TypeAAAA, "2001:db8::53"},
				{dnsmessage.TypeMX, ""},
				{dnsmessage.TypeTXT, "*"},
			} {
				got := ask(t, conn, typ == unix.SOCK_STREAM, q.typ)
				if q.want == "*" {
					texts = append(texts, got)
				} else if got != q.want {
					t.Errorf("%s: the %s record is %q; want %q", dst, q.typ, got, q.want)
				}
			}
			conn.Close()
			var b netlab.Banner
			if err := json.Unmarshal([]byte(texts[0]), &b); err != nil || b.Role != role || b.Local != addr(dst) {
				t.Errorf("%s: the TXT record is %s, %v; want the banner of %s", dst, texts[0], err, role)
			}
		}
	}
}

// dialDNS connects a socket in the pod.
func dialDNS(t *testing.T, in *netlab.Namespace, typ int, to netip.AddrPort) net.Conn {
	t.Helper()
	domain, sa := unix.AF_INET,
		unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte(to.Addr().AsSlice()), Port: int(to.Port())})
	if to.Addr().Is6() {
		domain, sa = unix.AF_INET6, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	}
	fd, err := in.Socket(domain, typ, app)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, sa); err != nil && err != unix.EINPROGRESS {
		t.Fatal(err)
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if n, err := unix.Poll(poll, 5000); n != 1 || err != nil {
		t.Fatalf("connect to %s: %v", to, err)
	}
	file := os.NewFile(uintptr(fd), "dns")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	return conn
}

// ask asks a question and returns the answer's data as text.
func ask(t *testing.T, conn net.Conn, stream bool, typ dnsmessage.Type) string {
	t.Helper()
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("lab.test."), Type: typ, Class: dnsmessage.ClassINET}},
	}
	data, err := query.Pack()
	if err != nil {
		t.Fatal(err)
	}
	if stream {
		data = append(binary.BigEndian.AppendUint16(nil, uint16(len(data))), data...)
	}
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 4096)
	n, err := conn.Read(reply)
	if err != nil {
		t.Fatal(err)
	}
	reply = reply[:n]
	if stream {
		if want := int(binary.BigEndian.Uint16(reply)); want != n-2 {
			t.Fatalf("%d bytes of an answer of %d", n-2, want)
		}
		reply = reply[2:]
	}
	var m dnsmessage.Message
	if err := m.Unpack(reply); err != nil {
		t.Fatal(err)
	}
	if m.ID != 7 || !m.Response || m.RCode != dnsmessage.RCodeSuccess || len(m.Answers) > 1 {
		t.Fatalf("not the answer: %s", m.GoString())
	}
	if len(m.Answers) == 0 {
		return ""
	}
	switch body := m.Answers[0].Body.(type) {
	case *dnsmessage.AResource:
		return netip.AddrFrom4(body.A).String()
	case *dnsmessage.AAAAResource:
		return netip.AddrFrom16(body.AAAA).String()
	case *dnsmessage.TXTResource:
		return strings.Join(body.TXT, "")
	}
	t.Fatalf("not the answer: %s", m.GoString())
	return ""
}

// TestSidecar ends a sidecar and starts it again.
func TestSidecar(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{})
	for range 3 {
		s, err := lab.StartSidecar(netlab.SidecarConfig{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lab.StartSidecar(netlab.SidecarConfig{}); !errors.Is(err, unix.EADDRINUSE) {
			t.Fatalf("a second sidecar on the same ports: %v", err)
		}
		conn, d, err := lab.Dial(netlab.Flow{Protocol: tcp, Dst: addr("127.0.0.1:15001")})
		if err != nil || d.Role != netlab.RoleOutbound {
			t.Fatal(d, err)
		}
		s.Close()
		s.Close()
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("a connection outlives its sidecar")
		}
		conn.Close()
	}
	d, err := lab.Send(netlab.Flow{Protocol: tcp, Dst: addr("127.0.0.1:15001")})
	if err != nil || d.Role != netlab.RoleApp {
		t.Error(d, err)
	}
}

// TestReady sends at once what nothing sends again if it is lost.
func TestReady(t *testing.T) {
	t.Parallel()
	for range 40 {
		lab := netlab.NewT(t, netlab.Options{SecondInterface: true, VM: true})
		for _, f := range []netlab.Flow{
			{Dst: addr("[fd00:244::5]:80")},
			{Dst: addr("[fd00:245::5]:80")},
			{Dst: addr("[2001:db8::7]:80")},
			{Dst: addr("[2001:db8:1::7]:80")},
			{Dst: addr("[::1]:80"), Src: addr("[::6]:80")},
			{Dst: addr("[fd00:244::5]:80"), From: netlab.FromPeer, Src: addr("[2001:db8::9]:80")},
			{Dst: addr("[fd00:246::1]:80"), From: netlab.FromVM},
			{Dst: addr("[2001:db8::7]:80"), From: netlab.FromVM},
			{Dst: addr("203.0.113.7:80"), From: netlab.FromVM},
		} {
			f.Protocol = udp
			if d, err := lab.Send(f); err != nil || d.Fate != (intercept.Fate{}) {
				t.Errorf("%s: %s, %v", f, d, err)
			}
		}
	}
}

// TestSameSource sends again and again from one port while other processes are
// being started, which have copies of all sockets for a moment.
func TestSameSource(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{})
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := exec.Command("true").Run(); err != nil {
				t.Error(err)
			}
		}
	})
	for range 200 {
		for _, proto := range []intercept.Protocol{tcp, udp} {
			f := netlab.Flow{Protocol: proto, Src: addr("10.244.0.5:5353"), Dst: addr("203.0.113.7:53")}
			if d, err := lab.Send(f); err != nil || d.Fate != (intercept.Fate{}) {
				t.Errorf("%s: %s, %v", f, d, err)
			}
		}
	}
	close(done)
	wg.Wait()
}

// TestParallelLabs has 32 labs at once, with the same addresses in each.
func TestParallelLabs(t *testing.T) {
	t.Parallel()
	netlab.Require(t)
	var ready, wg sync.WaitGroup
	ready.Add(32)
	for i := range 32 {
		wg.Go(func() {
			lab, err := netlab.New(netlab.Options{SecondInterface: i%2 == 0})
			ready.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer lab.Close()
			ready.Wait()
			owner := &intercept.Owner{UID: 2000 + uint32(i), GID: 3000 + uint32(i)}
			if _, err := lab.StartSidecar(netlab.SidecarConfig{Owner: owner}); err != nil {
				t.Error(err)
			}
			for _, dst := range []string{"203.0.113.7:80", "[2001:db8::7]:80", "127.0.0.1:80", "[fd00:244::5]:15006"} {
				for _, proto := range []intercept.Protocol{tcp, udp} {
					f := netlab.Flow{Protocol: proto, Dst: addr(dst), Owner: owner, Timeout: 20 * time.Second}
					if d, err := lab.Send(f); err != nil || d.Fate != (intercept.Fate{}) {
						t.Errorf("%s: %s, %v", f, d, err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkNew(b *testing.B) {
	netlab.Require(b)
	for b.Loop() {
		lab, err := netlab.New(netlab.Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		lab.Close()
		b.StartTimer()
	}
}

func BenchmarkSend(b *testing.B) {
	lab := netlab.NewT(b, netlab.Options{})
	for _, dst := range []string{"203.0.113.7:80", "[2001:db8::7]:80", "127.0.0.1:80"} {
		for _, proto := range []intercept.Protocol{tcp, udp} {
			b.Run(fmt.Sprintf("%s/%s", proto, dst), func(b *testing.B) {
				for b.Loop() {
					if _, err := lab.Send(netlab.Flow{Protocol: proto, Dst: addr(dst), Owner: app}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

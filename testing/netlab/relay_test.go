//go:build linux

package netlab_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// The two ways to the sidecar's inbound port. What is on lo comes from inside.
const (
	redirectInbound = `
		chain nat-inbound {
			type nat hook prerouting priority -100
			iifname "lo" accept
			tcp dport { 80, 81 } redirect to :15006
		}`
	tproxyInbound = `
		chain inbound {
			type filter hook prerouting priority -150
			iifname "lo" accept
			tcp dport { 80, 81 } tproxy to :15006
		}`
	// The sidecar's connections keep their mark, so that it is in the app's
	// replies too, and they are routed by it.
	repliesByMark = `
		chain replies {
			type route hook output priority -150
			skuid 1337 skgid 1337 meta mark 1337 ct mark set meta mark
			ct mark 1337 meta mark set ct mark
		}`
)

// table puts chains into a table of the pod's.
func table(t *testing.T, lab *netlab.Lab, chains ...string) {
	t.Helper()
	nft(t, lab, "table inet t {"+strings.Join(chains, "")+"\n}")
}

// routeByMark delivers in the pod, whatever its destination, what has mark 1337.
func routeByMark(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	for _, family := range []string{"-4", "-6"} {
		runInPod(t, lab, `
			rule add fwmark 1337 lookup 133
			route add local default dev lo table 133
		`, "ip", family, "-batch", "-")
	}
}

var fromPeer = []netlab.Flow{
	{From: netlab.FromPeer, Protocol: tcp, Src: addr("203.0.113.9:0"), Dst: addr("10.244.0.5:80")},
	{From: netlab.FromPeer, Protocol: tcp, Src: addr("203.0.113.9:53"), Dst: addr("10.245.0.5:80")},
	{From: netlab.FromPeer, Protocol: tcp, Dst: addr("10.244.0.5:80")},
	{From: netlab.FromPeer, Protocol: tcp, Src: addr("[2001:db8::9]:0"), Dst: addr("[fd00:244::5]:80")},
	{From: netlab.FromPeer, Protocol: tcp, Src: addr("[2001:db8::9]:53"), Dst: addr("[fd00:245::5]:80")},
	{From: netlab.FromPeer, Protocol: tcp, Dst: addr("[fd00:244::5]:80")},
}

// TestTransparent looks at the addresses that an inbound listener sees.
func TestTransparent(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{SecondInterface: true})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{Transparent: true}); err != nil {
		t.Fatal(err)
	}
	table(t, lab, tproxyInbound)
	want := intercept.Fate{Action: intercept.Transparent, Ports: intercept.Port(15006)}
	for _, f := range fromPeer {
		got, err := lab.Send(f)
		if err != nil {
			t.Error(err)
			continue
		}
		if got.Fate != want || got.Role != netlab.RoleInbound || got.Local != f.Dst {
			t.Errorf("%s: %s; want %s", f, got, want)
		}
		if got.Client != got.Source || got.Client.Addr() != f.Packet(lab).Src.Addr() {
			t.Errorf("%s: sent by %s; %s", f, got.Source, got)
		}
	}
}

// TestForward has the sidecar pass on what comes in either way, in both modes.
func TestForward(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sidecar netlab.SidecarConfig
		chains  []string
		want    intercept.Fate
	}{
		"passthrough of redirected": {
			netlab.SidecarConfig{Forward: netlab.ForwardPassthrough},
			[]string{redirectInbound},
			intercept.RedirectedTo(15006),
		},
		"passthrough of transparent": {
			netlab.SidecarConfig{Forward: netlab.ForwardPassthrough, Transparent: true},
			[]string{tproxyInbound},
			intercept.Fate{Action: intercept.Transparent, Ports: intercept.Port(15006)},
		},
		"original source of redirected": {
			netlab.SidecarConfig{Forward: netlab.ForwardOriginalSource, ForwardMark: 1337},
			[]string{redirectInbound, repliesByMark},
			intercept.RedirectedTo(15006),
		},
		"original source of transparent": {
			netlab.SidecarConfig{Forward: netlab.ForwardOriginalSource, ForwardMark: 1337, Transparent: true},
			[]string{tproxyInbound, repliesByMark},
			intercept.Fate{Action: intercept.Transparent, Ports: intercept.Port(15006)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewT(t, netlab.Options{SecondInterface: true})
			sidecar, err := lab.StartSidecar(test.sidecar)
			if err != nil {
				t.Fatal(err)
			}
			table(t, lab, test.chains...)
			routeByMark(t, lab)
			for _, f := range fromPeer {
				f.Timeout = 10 * time.Second
				conn, got, err := lab.Dial(f)
				if err != nil {
					t.Error(err)
					continue
				}
				defer conn.Close()
				if !got.Is(test.want) || got.Fate != test.want || got.Role != netlab.RoleApp || got.Local != f.Dst {
					t.Errorf("%s: %s; want %s and the app's answer", f, got, test.want)
				}
				if got.Via.Role != netlab.RoleInbound || got.Via.Client != got.Source || got.Via.Original != f.Dst {
					t.Errorf("%s: sent by %s; %s", f, got.Source, got)
				}
				from := f.Packet(lab).Src.Addr()
				if test.sidecar.Forward == netlab.ForwardPassthrough {
					from = map[bool]netip.Addr{true: netip.MustParseAddr("127.0.0.6"), false: netip.MustParseAddr("::6")}[from.Is4()]
				}
				if got.Client.Addr() != from || got.Client == got.Source {
					t.Errorf("%s: the app sees %s; want %s and a port of the sidecar's", f, got.Client, from)
				}

				// All that is sent comes back, and so does its end.
				if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
					t.Error(err)
				}
				want := bytes.Repeat([]byte("all that is sent comes back\n"), 10_000)
				go func() {
					conn.Write(want)
					conn.(*net.TCPConn).CloseWrite()
				}()
				if data, err := io.ReadAll(conn); err != nil || !bytes.Equal(data, want) {
					t.Errorf("%s: %d bytes came back of %d, %v", f, len(data), len(want), err)
				}
			}
			// To its port itself nothing is to be passed on.
			f := netlab.Flow{From: netlab.FromPeer, Protocol: tcp, Dst: addr("10.244.0.5:15006")}
			if got, err := lab.Send(f); err != nil || got.Role != netlab.RoleInbound || got.Via.Role != "" {
				t.Errorf("%s: %s, %v", f, got, err)
			}
			conn, _, err := lab.Dial(fromPeer[0])
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Error(err)
			}
			sidecar.Close()
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a connection outlives the sidecar that passes it on: %v", err)
			}
		})
	}
}

// TestForwardFromPod passes on what the sidecar itself sends to the pod's
// address, and leaves its passthrough alone.
func TestForwardFromPod(t *testing.T) {
	t.Parallel()
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{Forward: netlab.ForwardPassthrough}); err != nil {
		t.Fatal(err)
	}
	table(t, lab, `
		chain output {
			type nat hook output priority -100
			oifname "lo" ip saddr 127.0.0.6 accept
			oifname "lo" ip6 saddr ::6 accept
			oifname "lo" skuid 1337 tcp dport 80 redirect to :15006
		}`)
	for dst, from := range map[string]string{"10.244.0.5:80": "127.0.0.6", "[fd00:244::5]:80": "::6"} {
		f := netlab.Flow{Protocol: tcp, Dst: addr(dst), Owner: &intercept.Owner{UID: 1337, GID: 1337}}
		got, err := lab.Send(f)
		if err != nil {
			t.Error(err)
		} else if got.Fate != intercept.RedirectedTo(15006) || got.Role != netlab.RoleApp ||
			got.Client.Addr().String() != from {
			t.Errorf("%s: %s; want it passed on to the app from %s", f, got, from)
		}
	}
}

// TestForwardFails shows what becomes of a connection that is not passed on.
func TestForwardFails(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sidecar netlab.SidecarConfig
		chains  []string
		want    string // in the error; empty: the sidecar answers
	}{
		"captured again": {
			netlab.SidecarConfig{Forward: netlab.ForwardPassthrough},
			[]string{redirectInbound, `
				chain output {
					type nat hook output priority -100
					skuid 1337 tcp dport 80 redirect to :15006
				}`},
			"",
		},
		"refused": {
			netlab.SidecarConfig{Forward: netlab.ForwardPassthrough, ForwardMark: 7},
			[]string{redirectInbound, `
				chain output {
					type filter hook output priority 0
					meta mark 7 tcp dport 80 reject with tcp reset
				}`},
			"inbound cannot reach",
		},
		"no way back": {
			netlab.SidecarConfig{Forward: netlab.ForwardOriginalSource, ForwardMark: 1337, Transparent: true},
			[]string{tproxyInbound},
			"connected, but",
		},
		"no way back without the mark": {
			netlab.SidecarConfig{Forward: netlab.ForwardOriginalSource, Transparent: true},
			[]string{tproxyInbound, repliesByMark},
			"connected, but",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewT(t, netlab.Options{SecondInterface: true})
			if _, err := lab.StartSidecar(test.sidecar); err != nil {
				t.Fatal(err)
			}
			table(t, lab, test.chains...)
			routeByMark(t, lab)
			for _, f := range fromPeer {
				if f.Timeout = 10 * time.Second; strings.HasPrefix(name, "no way") {
					f.Timeout = 50 * time.Millisecond
				}
				got, err := lab.Send(f)
				switch {
				case test.want != "":
					if err == nil || !strings.Contains(err.Error(), test.want) {
						t.Errorf("%s: %s, %v; want an error with %q", f, got, err, test.want)
					}
				case err != nil:
					t.Error(err)
				case got.Role != netlab.RoleInbound || got.Via.Role != netlab.RoleInbound ||
					got.Fate != intercept.RedirectedTo(15006):
					t.Errorf("%s: %s; want the sidecar's answer to itself", f, got)
				}
			}
		})
	}
}

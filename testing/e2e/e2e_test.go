//go:build linux

// Package e2e_test runs pods whose sidecars are not ours: HAProxy takes the
// connections and dnsmasq the names. Both are as they come from the
// distribution and know of Intercept only the ports.
package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

var app = &intercept.Owner{UID: 1000, GID: 1000}

// Where the pod's app calls, and where its users call it.
var (
	outside  = netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("203.0.113.7:80"), Owner: app}
	outside6 = netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("[2001:db8::7]:80"), Owner: app}
	service  = netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("10.244.0.5:8080"), From: netlab.FromPeer}
	probe    = netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("10.244.0.5:15020"),
		From: netlab.FromPeer}
)

// TestOutbound: an app that calls a server outside is answered by it, as if
// there were no proxy. But the call that the server sees is HAProxy's, and
// HAProxy's log has the server's address. Over IPv6, which HAProxy does not
// serve, the app is refused: it does not get past the proxy.
func TestOutbound(t *testing.T) {
	t.Parallel()
	lab := newPod(t, intercept.Default())
	haproxy := startHAProxy(t, lab)

	throughProxy(t, lab, haproxy)

	if got, err := lab.Send(outside6); err != nil || got.Fate.Action != intercept.Rejected {
		t.Errorf("%s: %s, %v", outside6, got, err)
	}
}

// TestDNS: an app that asks the cluster's name server is answered by dnsmasq
// in its own pod, over UDP and TCP, IPv4 and IPv6. Names that dnsmasq does not
// know it asks of the cluster's name server, and its own question gets there.
func TestDNS(t *testing.T) {
	t.Parallel()
	lab := newPod(t, shownConfig(t, withEnvoy))
	dnsmasq := startDNSMasq(t, lab)

	for network, typ := range map[string]int{"udp": unix.SOCK_DGRAM, "tcp": unix.SOCK_STREAM} {
		for family, server := range map[string]string{"4": "10.96.0.10:53", "6": "[fd00:96::a]:53"} {
			t.Run(network+family, func(t *testing.T) {
				resolver := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
					return dial(lab, typ, netip.MustParseAddrPort(server), app)
				}}
				addrs, err := resolver.LookupHost(t.Context(), "reviews.mesh.test.")
				if err != nil || fmt.Sprint(addrs) != "[203.0.113.10]" {
					t.Errorf("reviews.mesh.test is at %v, %v", addrs, err)
				}

				// The lab answers every question for a text with who answers whom.
				name := network + family + ".example.com"
				texts, err := resolver.LookupTXT(t.Context(), name+".")
				if err != nil {
					t.Fatal(err)
				}
				var upstream netlab.Banner
				if err := json.Unmarshal([]byte(strings.Join(texts, "")), &upstream); err != nil {
					t.Fatal(err)
				}
				if upstream.Role != netlab.RolePeer || upstream.Local.String() != "10.96.0.10:53" ||
					upstream.Client.Addr().String() != "10.244.0.5" {
					t.Errorf("%s: answered by %+v", name, upstream)
				}
				dnsmasq.awaitLog(t, "forwarded "+name+" to 10.96.0.10")
			})
		}
	}
}

// TestInbound: a user who calls the app is answered by it, but through
// HAProxy: the app sees HAProxy's call, from the passthrough source, which was
// not captured again. The health probe is answered without HAProxy, to the
// kubelet's own address.
func TestInbound(t *testing.T) {
	t.Parallel()
	lab := newPod(t, intercept.Default())
	haproxy := startHAProxy(t, lab)

	straight(t, lab, probe)

	got, own := call(t, lab, service)
	if got.Role != netlab.RoleApp || got.Local != service.Dst || got.Client.Addr().String() != "127.0.0.6" {
		t.Fatalf("%s: %s", service, got)
	}
	haproxy.awaitLog(t, fmt.Sprintf("inbound: %s to %s from %s", own, service.Dst, got.Client))

	// Had the probe come to HAProxy, it would be in the log as well by now.
	if log := haproxy.log(); strings.Count(log, "bound: ") != 1 {
		t.Errorf("HAProxy has seen more than one connection:\n%s", log)
	}
}

// TestIngressController: the users of an ingress controller come to it without
// a proxy, and it sees their own addresses. What it calls in turn goes through
// HAProxy.
func TestIngressController(t *testing.T) {
	t.Parallel()
	config := intercept.Default()
	config.Inbound.Mode = intercept.InboundOff
	lab := newPod(t, config)
	haproxy := startHAProxy(t, lab)

	straight(t, lab, service)
	throughProxy(t, lab, haproxy)

	if log := haproxy.log(); strings.Contains(log, "inbound: ") {
		t.Errorf("HAProxy has seen the users:\n%s", log)
	}
}

// TestProxyKilled: HAProxy dies while an app calls and calls. From then on
// every call is refused, the users' as well, and not one gets past the proxy.
// When HAProxy is there again, calls are answered again.
func TestProxyKilled(t *testing.T) {
	t.Parallel()
	lab := newPod(t, intercept.Default())
	haproxy := startHAProxy(t, lab)
	throughProxy(t, lab, haproxy)

	calling, HangUp := context.WithCancel(t.Context())
	var caller sync.WaitGroup
	defer caller.Wait()
	defer HangUp()
	caller.Go(func() {
		for calling.Err() == nil && !t.Failed() {
			conn, got, err := lab.Dial(outside)
			switch {
			case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET): // HAProxy died just then
			case err != nil:
				t.Error(err)
			case conn != nil:
				if got.Client == local(conn) {
					t.Errorf("%s, past the proxy: %s", outside, got)
				}
				conn.Close()
			case got.Fate.Action != intercept.Rejected:
				t.Errorf("%s: %s", outside, got)
			}
		}
	})

	// A connection in use, too.
	conn, got, err := lab.Dial(outside)
	if err != nil || conn == nil {
		t.Fatalf("%s: %s, %v", outside, got, err)
	}
	defer conn.Close()
	haproxy.kill()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); err != io.EOF && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the connection outlives the proxy: read %d bytes, %v", n, err)
	}

	for range 50 {
		for _, f := range []netlab.Flow{outside, outside6, service} {
			if got, err := lab.Send(f); err != nil || got.Fate.Action != intercept.Rejected {
				t.Fatalf("%s: %s, %v", f, got, err)
			}
		}
	}

	throughProxy(t, lab, startHAProxy(t, lab))
}

// newPod makes a lab and puts the rules of c into its pod.
func newPod(t *testing.T, c intercept.Config) *netlab.Lab {
	t.Helper()
	lab := netlab.NewT(t, netlab.Options{})
	target := dataplane.Pod{NetNS: lab.Pod.Path()}
	if _, err := target.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		status, err := target.Status(context.Background())
		t.Logf("the kernel's rules and counts: %v", err)
		for _, c := range status.Counters {
			t.Logf("%8d  %-16s %s: %s %s", c.Packets, c.Chain, c.Line, c.Reason, c.Family)
		}
	})
	return lab
}

// call makes a call that has to be answered. It returns who answered, and the
// caller's own address.
func call(t *testing.T, lab *netlab.Lab, f netlab.Flow) (netlab.Delivery, netip.AddrPort) {
	t.Helper()
	conn, got, err := lab.Dial(f)
	if err != nil {
		t.Fatal(err)
	}
	if conn == nil {
		t.Fatalf("%s: %s", f, got)
	}
	defer conn.Close()
	return got, local(conn)
}

// straight checks that a call is answered without a proxy: who is called sees
// who calls.
func straight(t *testing.T, lab *netlab.Lab, f netlab.Flow) {
	t.Helper()
	got, own := call(t, lab, f)
	if got.Role != netlab.RoleApp || got.Local != f.Dst || got.Client != own {
		t.Errorf("%s: %s, while the caller's own address is %s", f, got, own)
	}
}

// throughProxy checks that an app's call is answered through HAProxy: who is
// called sees the pod, but another port than the app's, and HAProxy's log
// knows both. The kernel would not give HAProxy the port that the app uses for
// the same destination.
func throughProxy(t *testing.T, lab *netlab.Lab, haproxy *sidecar) {
	t.Helper()
	got, own := call(t, lab, outside)
	if got.Role != netlab.RolePeer || got.Local != outside.Dst || got.Client.Addr() != own.Addr() || got.Client == own {
		t.Fatalf("%s: %s, while the caller's own address is %s", outside, got, own)
	}
	haproxy.awaitLog(t, fmt.Sprintf("outbound: %s to %s from %s", own, outside.Dst, got.Client))
}

// local returns the near end of a TCP connection.
func local(conn net.Conn) netip.AddrPort { return conn.LocalAddr().(*net.TCPAddr).AddrPort() }

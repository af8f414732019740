package main

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
)

// TestPortsOfStrangers: who listens and is not the proxy is named so, and it is said who the proxy is.
func TestPortsOfStrangers(t *testing.T) {
	at := netip.MustParseAddrPort("0.0.0.0:15001")
	o := dataplane.Overview{InForce: &dataplane.InForce{Config: intercept.Default()}, Ports: []dataplane.Port{
		{For: "outbound", Protocol: intercept.TCP, Port: intercept.Port(15001), Listeners: []dataplane.Listener{
			{Address: at, UID: 1337, Process: "envoy", PID: 7}, {Address: at, UID: 0, Process: "nc", PID: 8, NotProxy: true}}},
		{For: "inbound", Protocol: intercept.TCP, Port: intercept.Port(15006), Listeners: []dataplane.Listener{
			{Address: at, UID: 1337}, {Address: netip.MustParseAddrPort("127.0.0.1:15006"), UID: 1000, Unreached: true}}},
		{For: "dns", Protocol: intercept.UDP, Port: intercept.Port(15053)},
	}}
	want := []cli.Row{{"PORT", "FOR", "WHO LISTENS"},
		{"15001/tcp", "outbound", "user 1337 (envoy, process 7) at 0.0.0.0:15001, user 0 (nc, process 8), not the proxy, at " +
			"0.0.0.0:15001; the proxy is user 1337 or group 1337: mesh-init verify tries who gets what comes here"},
		{"15006/tcp", "inbound", "user 1337 at 0.0.0.0:15001, user 1000 at 127.0.0.1:15006, where none of it comes"},
		{"15053/udp", "dns", "nobody"}}
	if diff := cmp.Diff(want, portRows(o)); diff != "" {
		t.Error(diff)
	}
}

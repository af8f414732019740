package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniwire"
)

// TestOtherMeshes: pods of another mesh are intercepted as that mesh's own plugin does it, if the entry has its dialect,
// and otherwise are somebody else's.
func TestOtherMeshes(t *testing.T) {
	const (
		istio   = `{"sidecar.istio.io/status":"{}","traffic.sidecar.istio.io/excludeOutboundPorts":"5432"}`
		bad     = `{"sidecar.istio.io/status":"{}","traffic.sidecar.istio.io/excludeOutboundPorts":"x"}`
		both    = `{"sidecar.istio.io/status":"{}","intercept.mesh/enabled":"true","intercept.mesh/outbound-port":"16001"}`
		byInit  = `{"sidecar.istio.io/status":"{\"initContainers\":[\"istio-init\"],\"containers\":[\"istio-proxy\"]}"}`
		linkerd = `{"linkerd.io/proxy-version":"edge"}`
		all     = `,"dialects":["intercept","istio","linkerd","kuma","consul"]`
		v4      = `,"prevResult":{"cniVersion":"1.0.0","ips":[{"address":"10.244.0.5/24"}]}`
	)
	for name, tt := range map[string]struct {
		annotations, more string
		code              uint
		applied           bool
		is                func(intercept.Config) bool
	}{
		"no dialect":          {istio, "", 0, false, nil},
		"istio":               {istio, all, 0, true, func(c intercept.Config) bool { return c.Outbound.ExcludePorts.String() == "5432" }},
		"istio, IPv4":         {istio, all + v4, 0, true, func(c intercept.Config) bool { return c.Families == intercept.FamiliesIPv4 }},
		"istio, wrong":        {bad, all, codeAnnotations, false, nil},
		"by its init":         {byInit, all, 0, false, nil},
		"ours first":          {both, all, 0, true, func(c intercept.Config) bool { return c.Outbound.Port.String() == "16001" }},
		"theirs first":        {both, `,"dialects":["istio","intercept"]`, 0, true, func(c intercept.Config) bool { return c.Outbound.Port.String() == "15001" }},
		"linkerd":             {linkerd, all, 0, true, func(c intercept.Config) bool { return c.Outbound.Port.String() == "4140" }},
		"kata":                {istio, all + `,"runtime":"kata"`, codeOtherNetwork, false, nil},
		"excluded":            {istio, all + `,"excludeNamespaces":["ns"]`, 0, false, nil},
		"misspelt":            {istio, `,"dialects":["intercept","itsio"]`, types.ErrInvalidNetworkConfig, false, nil},
		"no list":             {istio, `,"dialects":"istio"`, types.ErrInvalidNetworkConfig, false, nil},
		"misspelt name":       {istio, `,"dialect":["istio"]`, types.ErrUnsupportedField, false, nil},
		"misspelt, of nobody": {`{"a":"b"}`, `,"dialects":["itsio"]`, 0, false, nil},
		"broken entry":        {istio, all + `,"backend":"x"`, types.ErrInvalidNetworkConfig, false, nil},
		"without agent":       {istio, all + `,"agentSocket":"/nobody/there"`, types.ErrTryAgainLater, false, nil},
	} {
		f := fakePlane{applied: new([]dataplane.Pod), config: new(intercept.Config)}
		p := &plugin{plane: f.on}
		err := p.answer(t.Context(), ofPod("ADD"), strings.NewReader(entry(tt.annotations, tt.more)))
		code := uint(0)
		if e, ok := errors.AsType[*types.Error](err); ok {
			code = e.Code
		}
		if code != tt.code || (len(*f.applied) > 0) != tt.applied || tt.is != nil && !tt.is(*f.config) {
			t.Errorf("%s: %v, applied to %v: %+v", name, err, *f.applied, *f.config)
		}
	}
}

// TestOtherMeshByAgent: what a runtime does not say of another mesh's pod the agent says, of all containers.
func TestOtherMeshByAgent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	l, err := cniwire.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	uid := int64(2024)
	facts := cniwire.Facts{Found: true, Annotations: map[string]string{"sidecar.istio.io/status": "{}"},
		Injected: []cniwire.Container{{Name: "istio-proxy", UID: &uid, Env: map[string]string{"ISTIO_META_DNS_CAPTURE": "true"}}}}
	serve(t, l, facts)
	for _, given := range []string{`{"sidecar.istio.io/status":"{}"}`, ""} {
		f := fakePlane{applied: new([]dataplane.Pod), config: new(intercept.Config)}
		p := &plugin{plane: f.on}
		stdin := entry(given, `,"agentSocket":"`+socket+`","dialects":["istio"]`)
		if given == "" {
			stdin = strings.Replace(entry("{}", `,"agentSocket":"`+socket+`","dialects":["istio"]`),
				`"io.kubernetes.cri.pod-annotations":{}`, `"x":{}`, 1)
		}
		if err := p.answer(t.Context(), ofPod("ADD"), strings.NewReader(stdin)); err != nil {
			t.Fatalf("%s: %v", stdin, err)
		}
		if got := f.config; got.Proxy.UIDs.String() != "2024" || got.DNS.Mode != intercept.DNSAll {
			t.Errorf("%s: %+v", stdin, *got)
		}
	}
}

// serve answers every question with the same facts.
func serve(t *testing.T, l net.Listener, facts cniwire.Facts) {
	t.Helper()
	server := cniwire.Server{
		Pod:   func(context.Context, cniwire.Pod) (cniwire.Facts, error) { return facts, nil },
		Ready: func() error { return nil },
		Log:   func(cniwire.Record, json.RawMessage) {},
	}
	go func() { _ = server.Serve(t.Context(), l) }()
}

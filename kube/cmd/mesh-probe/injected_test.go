//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/podspec"
	"github.com/mesh-intercept/intercept/podspec/inject"
	"github.com/mesh-intercept/intercept/podspec/probes"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// manifest is a pod as its author writes it.
const manifest = `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: web
    image: web:1
    ports: [{name: http, containerPort: 8080}]
    readinessProbe: {httpGet: {port: http, path: /ready}}
    livenessProbe: {tcpSocket: {port: http}}
`

// TestInjected: in a pod that mesh-init inject has given HAProxy and the relay, kubelet is
// told how the app is, and not how HAProxy is.
func TestInjected(t *testing.T) {
	t.Parallel()
	netlab.RequireProgram(t, "haproxy")
	profile, err := inject.ParseProfile("haproxy", []byte(inject.ShippedText("haproxy")))
	if err != nil {
		t.Fatal(err)
	}
	profile.Mode = inject.ModeCNI
	done, err := inject.Read("web.yaml", []byte(manifest), profile, inject.Cluster{})
	if err != nil {
		t.Fatal(err)
	}
	texts, err := done.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var made struct {
		Metadata struct{ Annotations map[string]string }
		Spec     struct {
			InitContainers []struct {
				Name string
				Env  []struct{ Name, Value string }
			}
			Containers []struct {
				ReadinessProbe, LivenessProbe struct {
					HTTPGet struct {
						Path string
						Port int
					}
				}
			}
		}
	}
	if err := json.Unmarshal(texts[0], &made); err != nil {
		t.Fatal(err)
	}
	spec, err := podspec.Read(made.Metadata.Annotations, podspec.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{T: t, lab: netlab.NewT(t, netlab.Options{}), log: &buffer{}}
	if _, err := (dataplane.Pod{NetNS: p.lab.Pod.Path()}).Apply(t.Context(), spec.Config); err != nil {
		t.Fatal(err)
	}

	dir, err := os.MkdirTemp("", "injected") // t.TempDir is for root alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "haproxy.cfg")
	text := made.Metadata.Annotations["files.intercept.mesh/haproxy.cfg"]
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	proxy := exec.Command("haproxy", "-db", "-f", file)
	proxy.Dir = "/"
	if err := p.lab.Pod.Start(proxy, &intercept.Owner{UID: 1337, GID: 1337}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		proxy.Process.Kill()
		proxy.Wait()
	})

	for _, c := range made.Spec.InitContainers {
		for _, e := range c.Env {
			if c.Name == "mesh-probe" && e.Name == probes.Env {
				set, err := probes.Parse(e.Value)
				if err != nil || len(set.Probes) != 2 {
					t.Fatalf("%+v, %v", set, err)
				}
				p.probes(pod4, set.Probes...)
			}
		}
	}
	if p.relay == nil {
		t.Fatal("no relay was injected")
	}
	app := made.Spec.Containers[0]
	ask := func() string {
		t.Helper()
		var got []string
		for _, g := range []struct {
			Path string
			Port int
		}{app.ReadinessProbe.HTTPGet, app.LivenessProbe.HTTPGet} {
			r, err := p.kubelet("").Get(fmt.Sprintf("http://%s:%d%s", pod4, g.Port, g.Path))
			if err != nil {
				t.Fatal(err)
			}
			r.Body.Close()
			got = append(got, fmt.Sprint(r.StatusCode))
		}
		return strings.Join(got, " ")
	}
	if got := ask(); got != "503 503" {
		t.Errorf("there is no app, and readiness and liveness are %s", got)
	}
	server := p.app(net.JoinHostPort(pod4, "8080"), func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ready" {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	if got := ask(); got != "200 200" {
		t.Errorf("the app is there, and readiness and liveness are %s: %s", got, p.log)
	}
	server.Close()
	if got := ask(); got != "503 503" {
		t.Errorf("the app is gone, and readiness and liveness are %s", got)
	}
}

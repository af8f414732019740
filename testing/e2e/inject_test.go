//go:build linux

package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/podspec"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// injectedPod is what of an injected pod kubelet would run.
type injectedPod struct {
	Metadata struct {
		Annotations map[string]string
	}
	Spec struct {
		InitContainers []injectedContainer
		Volumes        []struct {
			Name        string
			DownwardAPI struct {
				Items []struct {
					Path     string
					FieldRef struct{ FieldPath string }
				}
			}
		}
	}
}

type injectedContainer struct {
	Name            string
	Command, Args   []string
	SecurityContext struct {
		RunAsUser, RunAsGroup uint32
		Capabilities          struct{ Add []string }
	}
	VolumeMounts []struct{ Name, MountPath string }
}

const bareManifest = `apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: web
    image: web:1
`

// inject runs mesh-init inject, and returns the pod that it writes.
func inject(t *testing.T, program string, args ...string) injectedPod {
	t.Helper()
	cmd := exec.Command(program, append([]string{"inject", "-f", "-", "-o", "json"}, args...)...)
	cmd.Stdin = strings.NewReader(bareManifest)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var pod injectedPod
	if err := json.Unmarshal(out, &pod); err != nil {
		t.Fatal(err)
	}
	return pod
}

// files writes a pod's volumes as kubelet does, and returns where each is.
func (p injectedPod) files(t *testing.T) map[string]string {
	t.Helper()
	dir, err := os.MkdirTemp("", "inject") // t.TempDir is for root alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	where := map[string]string{}
	for _, v := range p.Spec.Volumes {
		where[v.Name] = filepath.Join(dir, v.Name)
		if err := os.Mkdir(where[v.Name], 0o755); err != nil {
			t.Fatal(err)
		}
		for _, item := range v.DownwardAPI.Items {
			key, ok := strings.CutPrefix(item.FieldRef.FieldPath, "metadata.annotations['")
			text, there := p.Metadata.Annotations[strings.TrimSuffix(key, "']")]
			if !ok || !there {
				t.Fatalf("%s is no annotation", item.FieldRef.FieldPath)
			}
			if err := os.WriteFile(filepath.Join(where[v.Name], item.Path), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return where
}

// run starts a pod's containers in a lab, one after the other, as kubelet would: those of
// mesh-init end, and sidecars listen before the next one starts. more are arguments
// of containers for what the lab has no file for.
func (p injectedPod) run(t *testing.T, lab *netlab.Lab, program string, more map[string][]string) map[string]*sidecar {
	t.Helper()
	where := p.files(t)
	listening := map[string][]string{
		"haproxy": {"127.0.0.1:15001", "127.0.0.1:15006", "127.0.0.1:15021"}, "dnsmasq": {"127.0.0.1:15053"},
	}
	started := map[string]*sidecar{}
	for _, c := range p.Spec.InitContainers {
		if c.Name == "mesh-init" {
			if c.SecurityContext.RunAsUser != 0 || fmt.Sprint(c.SecurityContext.Capabilities.Add) != "[NET_ADMIN]" {
				t.Errorf("mesh-init: %+v", c.SecurityContext)
			}
			inPod(t, lab, append([]string{program}, c.Args...)...)
			continue
		}
		if c.SecurityContext.RunAsUser != 1337 || c.SecurityContext.RunAsGroup != 1337 {
			t.Errorf("%s: %+v", c.Name, c.SecurityContext)
		}
		args := append(append(c.Command[1:], c.Args...), more[c.Name]...)
		for i := range args {
			for _, m := range c.VolumeMounts {
				args[i] = strings.ReplaceAll(args[i], m.MountPath+"/", where[m.Name]+"/")
			}
		}
		started[c.Name] = start(t, lab, exec.Command(filepath.Base(c.Command[0]), args...), listening[c.Name]...)
	}
	return started
}

// TestInjected: pods that mesh-init inject has made of a plain one work, by the profiles
// that come with it: what they run and how, their files, and the rules, whoever
// writes them.
func TestInjected(t *testing.T) {
	program := filepath.Join(t.TempDir(), "mesh-init")
	text, err := meshInit()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, profile := range []string{"haproxy", "haproxy-dns"} {
		for _, mode := range []string{"init", "cni"} {
			t.Run(profile+"/"+mode, func(t *testing.T) {
				t.Parallel()
				netlab.Require(t)
				pod := inject(t, program, "--profile", profile, "--inject-mode", mode)
				lab := netlab.NewT(t, netlab.Options{})
				if mode == "cni" { // as the plugin does
					spec, err := podspec.Read(pod.Metadata.Annotations, podspec.Options{Limits: podspec.DefaultLimits()})
					if err != nil || spec.Reason != podspec.Asked {
						t.Fatalf("%s, %v", spec.Reason, err)
					}
					if _, err := (dataplane.Pod{NetNS: lab.Pod.Path()}).Apply(t.Context(), spec.Config); err != nil {
						t.Fatal(err)
					}
				} else if spec, err := podspec.Read(pod.Metadata.Annotations, podspec.Options{}); err != nil ||
					spec.Reason != podspec.InitContainer {
					t.Errorf("the plugin takes the pod for its own: %s, %v", spec.Reason, err)
				}
				sidecars := pod.run(t, lab, program, map[string][]string{"dnsmasq": {"--no-resolv", "--server=10.96.0.10"}})

				throughProxy(t, lab, sidecars["haproxy"])
				got, own := call(t, lab, service)
				if got.Role != netlab.RoleApp || got.Client.Addr().String() != "127.0.0.6" {
					t.Errorf("%s: %s", service, got)
				}
				sidecars["haproxy"].awaitLog(t, fmt.Sprintf("inbound: %s to %s from %s", own, service.Dst, got.Client))
				if got, err := lab.Send(outside6); err != nil || got.Fate.Action != intercept.Rejected {
					t.Errorf("%s: %s, %v", outside6, got, err)
				}
				if status := healthOf(t, lab); status != "200" {
					t.Errorf("kubelet's question is answered with %s", status)
				}
				if profile == "haproxy-dns" {
					resolves(t, lab)
					sidecars["dnsmasq"].kill()
					deadline := time.After(20 * time.Second)
					for healthOf(t, lab) != "503" { // HAProxy looks every second
						select {
						case <-time.After(50 * time.Millisecond): // once more
						case <-deadline:
							t.Fatal("without dnsmasq the sidecar is ready all the same")
						}
					}
				}
			})
		}
	}
}

// healthOf asks the sidecar how it is, as kubelet does from outside.
func healthOf(t *testing.T, lab *netlab.Lab) string {
	t.Helper()
	netlab.RequireProgram(t, "curl")
	cmd := exec.Command("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5",
		"http://10.244.0.5:15021/")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := lab.Peer.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// resolves checks that the app's lookups are answered by the cluster's server, and that
// it is dnsmasq that asks.
func resolves(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	for network, typ := range map[string]int{"udp": unix.SOCK_DGRAM, "tcp": unix.SOCK_STREAM} {
		var own netip.AddrPort
		resolver := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			conn, err := dial(lab, typ, netip.MustParseAddrPort("10.96.0.10:53"), app)
			if err == nil {
				own = netip.MustParseAddrPort(conn.LocalAddr().String())
			}
			return conn, err
		}}
		texts, err := resolver.LookupTXT(t.Context(), network+".example.com.")
		if err != nil {
			t.Fatal(err)
		}
		var upstream netlab.Banner
		if err := json.Unmarshal([]byte(strings.Join(texts, "")), &upstream); err != nil {
			t.Fatal(err)
		}
		if upstream.Local.String() != "10.96.0.10:53" || upstream.Client == own {
			t.Errorf("by %s: answered by %+v, and asked by the app itself, %s", network, upstream, own)
		}
	}
}

//go:build linux

package cni_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// list is a chain of the plugin first and mesh-cni.
func list(t *testing.T, version, entry string) *libcni.NetworkConfigList {
	t.Helper()
	text := fmt.Sprintf(`{"cniVersion":%q,"name":"pods","plugins":[{"type":"first","says":%s},
		{"type":"mesh-cni","logFile":"","capabilities":{"io.kubernetes.cri.pod-annotations":true,"dns":true}%s}]}`,
		version, result(version), entry)
	l, err := libcni.ConfListFromBytes([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func runtimeConf(netns string, annotations map[string]string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID: "0123456789ab", NetNS: netns, IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "web"}, {"K8S_POD_NAMESPACE", "default"},
			{"K8S_POD_UID", "u1"}},
		CapabilityArgs: map[string]any{
			"io.kubernetes.cri.pod-annotations": annotations, "dns": map[string][]string{"servers": {"10.96.0.10"}}},
	}
}

// TestChain: a runtime's library runs the chain, in every version, and real
// connections then go as the policy says.
func TestChain(t *testing.T) {
	app, proxy := &intercept.Owner{UID: 1000, GID: 1000}, &intercept.Owner{UID: 1337, GID: 1337}
	tcp := func(dst string, owner *intercept.Owner) netlab.Flow {
		return netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(dst), Owner: owner}
	}
	annotations := maps.Clone(meshed)
	annotations["intercept.mesh/dns"] = "resolvconf"
	annotations["intercept.mesh/outbound-exclude-ports"] = "5432"
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewT(t, netlab.Options{})
			if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
				t.Fatal(err)
			}
			cni := libcni.NewCNIConfigWithCacheDir([]string{plugins}, t.TempDir(), nil)
			l := list(t, v, "")
			conf := runtimeConf(lab.Pod.Path(), annotations)
			got, err := cni.AddNetworkList(t.Context(), l, conf)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := json.Marshal(got); err != nil || !strings.Contains(string(b), "10.244.0.5/24") || got.Version() != v {
				t.Errorf("%s, %v", b, err)
			}
			query := tcp("10.96.0.10:53", app)
			query.Protocol = intercept.UDP
			elsewhere := query
			elsewhere.Dst = netip.MustParseAddrPort("10.96.0.11:53")
			fates := []struct {
				flow netlab.Flow
				want string
			}{
				{tcp("203.0.113.7:80", app), "redirect(15001)"},
				{tcp("[2001:db8::7]:80", app), "redirect(15001)"},
				{tcp("203.0.113.7:80", proxy), "pass"},
				{tcp("203.0.113.7:5432", app), "pass"},
				{query, "redirect(15053)"},
				{elsewhere, "pass"},
				{netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("10.244.0.5:8080"), From: netlab.FromPeer},
					"redirect(15006)"},
				{netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("10.244.0.5:15021"), From: netlab.FromPeer},
					"pass"},
			}
			for _, tt := range fates {
				if d, err := lab.Send(tt.flow); err != nil || d.Fate.String() != tt.want {
					t.Errorf("%s: %s, %v; want %s", tt.flow, d, err, tt.want)
				}
			}
			if !strings.HasPrefix(v, "0.3.") {
				if err := cni.CheckNetworkList(t.Context(), l, conf); err != nil {
					t.Error(err)
				}
			}
			if v == "1.1.0" {
				if err := cni.GetStatusNetworkList(t.Context(), l); err != nil {
					t.Error(err)
				}
				if err := cni.GCNetworkList(t.Context(), l,
					&libcni.GCArgs{ValidAttachments: []types.GCAttachment{
						{ContainerID: "0123456789ab", IfName: "eth0"}}}); err != nil {
					t.Error(err)
				}
			}
			for range 2 {
				if err := cni.DelNetworkList(t.Context(), l, conf); err != nil {
					t.Error(err)
				}
				conf.NetNS = ""
			}
			// Not ours.
			other := netlab.NewT(t, netlab.Options{})
			if _, err := cni.AddNetworkList(t.Context(), l, runtimeConf(other.Pod.Path(), plain)); err != nil {
				t.Error(err)
			}
			if d, err := other.Send(fates[0].flow); err != nil || d.Fate.String() != "pass" {
				t.Errorf("a pod that does not ask: %s, %v", d, err)
			}
		})
	}
}

// TestChainErrors: the library hands on the code and the sentence.
func TestChainErrors(t *testing.T) {
	pod := namespace(t)
	cni := libcni.NewCNIConfigWithCacheDir([]string{plugins}, t.TempDir(), nil)
	_, err := cni.AddNetworkList(context.Background(), list(t, "1.0.0", ""),
		runtimeConf(pod.Path(), map[string]string{"intercept.mesh/enabled": "on"}))
	var e *types.Error
	if !errors.As(err, &e) || e.Code != 100 ||
		!strings.Contains(e.Msg,
			`pod default/web: annotation intercept.mesh/enabled: "on" is not one of true, false, strict`) {
		t.Errorf("%T %v", err, err)
	}
	err = cni.GetStatusNetworkList(context.Background(), list(t, "1.1.0", `,"backend":"ebpf"`))
	if !errors.As(err, &e) || e.Code != 7 {
		t.Errorf("%T %v", err, err)
	}
}

// TestCnitool: the tool with which people try a plugin by hand.
func TestCnitool(t *testing.T) {
	netlab.RequireProgram(t, "unshare")
	dir := t.TempDir()
	tool := filepath.Join(dir, "cnitool")
	if err := goBuild(tool, "github.com/containernetworking/cni/cnitool"); err != nil {
		t.Fatal(err)
	}
	for _, v := range versions {
		pod := namespace(t)
		if err := os.WriteFile(filepath.Join(dir, "10-pods.conflist"), list(t, v, "").Bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		commands := []string{"add", "check", "del", "del", "status", "gc"}
		if strings.HasPrefix(v, "0.3.") {
			commands = []string{"add", "del", "del"}
		}
		// It keeps results under /var/lib/cni.
		const script = `mount -t tmpfs tmpfs /var/lib; tool=$0; netns=$1; shift
			for c; do "$tool" $c pods "$netns" || { echo "$c failed"; exit 1; }; done`
		cmd := exec.Command("unshare", append([]string{"-m", "/bin/sh", "-c", script, tool, pod.Path()}, commands...)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "CNI_PATH=" + plugins, "NETCONFPATH=" + dir,
			`CAP_ARGS={"io.kubernetes.cri.pod-annotations":{"intercept.mesh/enabled":"true"}}`}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "10.244.0.5/24") {
			t.Errorf("%s: %v\n%s", v, err, out)
		}
		if !intercepted(t, pod.Path(), intercept.Default()) {
			t.Errorf("%s: no rules", v)
		}
	}
}

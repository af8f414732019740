// Package quickstart_test holds what docs/quickstart.md shows to the APIs that
// read it: Kubernetes' and Envoy's.
package quickstart_test

import (
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/settings"
	"github.com/mesh-intercept/intercept/testing/quickstart"
)

func page(t *testing.T) quickstart.Page {
	t.Helper()
	return quickstart.Read(t, "../../../docs/quickstart.md")
}

// TestPod: Kubernetes knows every field of the manifest, and the containers are
// the sidecar that the configuration is for.
func TestPod(t *testing.T) {
	shown := page(t)
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(shown.File(t, "pod.yaml")), &pod); err != nil {
		t.Fatal(err)
	}
	config, err := settings.Load([]byte(shown.File(t, "mesh.yaml")))
	if err != nil {
		t.Fatal(err)
	}

	if len(pod.Spec.InitContainers) != 3 {
		t.Fatalf("%d init containers", len(pod.Spec.InitContainers))
	}
	mesh, sidecar := pod.Spec.InitContainers[0], pod.Spec.InitContainers[1:]
	if mesh.RestartPolicy != nil || mesh.Args[0] != "apply" ||
		!slices.Equal(mesh.SecurityContext.Capabilities.Add, []corev1.Capability{"NET_ADMIN"}) {
		t.Errorf("the init container is not one that applies: %v", mesh)
	}
	for _, c := range sidecar {
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways || c.StartupProbe == nil {
			t.Errorf("%s is no sidecar that the app waits for", c.Name)
		}
		if user := c.SecurityContext.RunAsUser; user == nil || !config.Proxy.UIDs.Contains(uint32(*user)) {
			t.Errorf("%s runs as user %v, who is not the proxy", c.Name, user)
		}
	}
	for _, c := range pod.Spec.Containers {
		if user := c.SecurityContext.RunAsUser; user == nil || config.Proxy.UIDs.Contains(uint32(*user)) {
			t.Errorf("%s runs as user %v, as the proxy does", c.Name, user)
		}
	}
	// The kubelet has to reach the sidecar itself.
	if port := sidecar[0].StartupProbe.HTTPGet.Port.IntValue(); !config.Inbound.ExcludePorts.Contains(uint16(port)) {
		t.Errorf("port %d of the probe is captured", port)
	}
	// The files are in the ConfigMap that the page makes.
	for _, c := range pod.Spec.InitContainers {
		words := strings.Fields(strings.ReplaceAll(strings.Join(append(c.Command, c.Args...), " "), "=", " "))
		shown.File(t, path.Base(words[len(words)-1]))
	}
}

// TestEnvoy: Envoy knows every field of the bootstraps of docs/quickstart.md and of examples/envoy and takes every
// value, and their listeners are where the rules send connections.
func TestEnvoy(t *testing.T) {
	example := "../../../examples/envoy/"
	config, err := settings.LoadFile(example + "mesh.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ofExample, err := os.ReadFile(example + "envoy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Run("quickstart", func(t *testing.T) {
		isBootstrap(t, page(t).File(t, "envoy.yaml"), intercept.Default())
	})
	t.Run("example", func(t *testing.T) { isBootstrap(t, string(ofExample), config) })
}

func isBootstrap(t *testing.T, envoy string, config intercept.Config) {
	t.Helper()
	text, err := yaml.YAMLToJSONStrict([]byte(envoy))
	if err != nil {
		t.Fatal(err)
	}
	var b bootstrap.Bootstrap
	if err := protojson.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	if err := b.ValidateAll(); err != nil {
		t.Error(err)
	}
	want := map[string]uint16{"outbound": config.Outbound.Port.First, "inbound": config.Inbound.Port.First,
		"health": 15021}
	for _, l := range b.GetStaticResources().GetListeners() {
		port := l.GetAddress().GetSocketAddress().GetPortValue()
		if port != uint32(want[l.GetName()]) {
			t.Errorf("listener %s has port %d", l.GetName(), port)
		}
		delete(want, l.GetName())
		validateFilters(t, l)
		if l.GetName() == "health" {
			continue
		}
		if f := l.GetListenerFilters(); len(f) != 1 ||
			!strings.HasSuffix(f[0].GetTypedConfig().GetTypeUrl(), ".OriginalDst") {
			t.Errorf("listener %s does not ask for the original destination", l.GetName())
		}
		more := l.GetAdditionalAddresses()
		if len(more) != 1 || more[0].GetAddress().GetSocketAddress().GetAddress() != "::" ||
			more[0].GetAddress().GetSocketAddress().GetPortValue() != port {
			t.Errorf("listener %s has no socket for IPv6 of its own: %v", l.GetName(), more)
		}
	}
	if len(want) > 0 {
		t.Errorf("listeners that are missing: %v", want)
	}
}

// validateFilters validates what a listener has wrapped in Any.
func validateFilters(t *testing.T, l *listener.Listener) {
	t.Helper()
	for _, chain := range l.GetFilterChains() {
		for _, f := range chain.GetFilters() {
			m, err := f.GetTypedConfig().UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			if err := m.(interface{ ValidateAll() error }).ValidateAll(); err != nil {
				t.Errorf("listener %s: %v", l.GetName(), err)
			}
		}
	}
}

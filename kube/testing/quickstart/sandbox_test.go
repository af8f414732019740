package quickstart_test

import (
	"path"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/settings"
	"github.com/mesh-intercept/intercept/testing/quickstart"
)

// TestSandboxPod: Kubernetes knows every field of the manifests of docs/sandbox.md, the sandbox has no privilege, the
// sidecar is the one that the rules are for, and nobody calls the pod.
func TestSandboxPod(t *testing.T) {
	shown := quickstart.Read(t, "../../../docs/sandbox.md")
	var pod corev1.Pod
	var policy networkingv1.NetworkPolicy
	for name, into := range map[string]any{"pod.yaml": &pod, "policy.yaml": &policy} {
		if err := yaml.UnmarshalStrict([]byte(shown.File(t, name)), into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	config, err := settings.Load([]byte(shown.File(t, "sandbox.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	if o := config.Outbound; o.UDP != intercept.TreatmentReject || o.OtherProtocols != intercept.TreatmentReject ||
		config.Backstop != intercept.BackstopOn || config.DNS.Mode != intercept.DNSAll ||
		len(config.Inbound.ExcludePorts) > 0 || config.TunnelPort != 0 {
		t.Errorf("the rules leave a way open: %+v", config)
	}

	spec := pod.Spec
	if len(spec.InitContainers) != 3 || len(spec.Containers) != 1 || spec.HostNetwork || spec.HostPID || spec.HostIPC ||
		spec.ShareProcessNamespace != nil || spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken ||
		spec.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod has more than it needs: %+v", spec)
	}
	for i, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		s := c.SecurityContext
		if !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || s.AllowPrivilegeEscalation == nil ||
			*s.AllowPrivilegeEscalation {
			t.Errorf("%s has privileges", c.Name)
		}
		switch isSidecar := config.Proxy.UIDs.Contains(uint32(*s.RunAsUser)); {
		case i == 0: // mesh-init
			if !slices.Equal(s.Capabilities.Add, []corev1.Capability{"NET_ADMIN"}) || c.RestartPolicy != nil {
				t.Errorf("%s is not one that applies", c.Name)
			}
		case len(s.Capabilities.Add) > 0 || s.RunAsNonRoot == nil || !*s.RunAsNonRoot:
			t.Errorf("%s can be root, or more", c.Name)
		case i < len(spec.InitContainers):
			if !isSidecar || c.RestartPolicy == nil || c.StartupProbe == nil {
				t.Errorf("%s is no sidecar that the sandbox waits for", c.Name)
			}
		case isSidecar || config.Proxy.GIDs.Contains(uint32(*s.RunAsGroup)):
			t.Errorf("%s passes as the proxy", c.Name)
		}
	}
	// The files are in the ConfigMap that the page makes.
	for _, c := range spec.InitContainers {
		words := strings.Fields(strings.ReplaceAll(strings.Join(append(c.Command, c.Args...), " "), "=", " "))
		shown.File(t, path.Base(words[len(words)-1]))
	}
	selected := policy.Spec.PodSelector.MatchLabels
	if len(selected) != 1 || pod.Labels["sandbox"] != selected["sandbox"] || len(policy.Spec.Ingress) > 0 ||
		!slices.Equal(policy.Spec.PolicyTypes, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}) {
		t.Errorf("somebody may call the pod: %+v", policy.Spec)
	}
}

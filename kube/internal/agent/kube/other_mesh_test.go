package kube

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mesh-intercept/intercept/internal/cniwire"
)

// TestOtherMesh: of a pod of another mesh the agent keeps what its dialect reads: JSON in place of YAML, the proxy's user,
// and the variables that say how to intercept. What is not YAML stays, so that the plugin names it.
func TestOtherMesh(t *testing.T) {
	uid, always := int64(1337), corev1.ContainerRestartPolicyAlways
	in := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}, Annotations: map[string]string{
			"traffic.kuma.io/transparent-proxy-config": "redirect:\n  inbound:\n    excludePorts: [22]\n",
			"proxy.istio.io/config":                    "{", "other": "a: b",
		}},
		Spec: corev1.PodSpec{
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: &uid},
			InitContainers: []corev1.Container{{Name: "istio-init"}, {Name: "istio-proxy", RestartPolicy: &always,
				Env: []corev1.EnvVar{{Name: "ISTIO_META_DNS_CAPTURE", Value: "true"}, {Name: "SECRET", Value: "x"}}}},
			Containers: []corev1.Container{{Name: "app", Env: []corev1.EnvVar{{Name: "INVALID_DROP", Value: "true"}}}},
		},
	}
	kept, err := slim(in)
	if err != nil {
		t.Fatal(err)
	}
	slimmed, _ := kept.(*corev1.Pod)
	facts := podOf(slimmed, nil).Facts
	want := cniwire.Facts{Found: true, Labels: map[string]string{"app": "web"},
		Annotations: map[string]string{
			"traffic.kuma.io/transparent-proxy-config": `{"redirect":{"inbound":{"excludePorts":[22]}}}`,
			"proxy.istio.io/config":                    "{", "other": "a: b",
		},
		Injected: []cniwire.Container{{Name: "istio-init", Init: true, UID: &uid},
			{Name: "istio-proxy", UID: &uid, Env: map[string]string{"ISTIO_META_DNS_CAPTURE": "true"}}},
	}
	if diff := cmp.Diff(want, facts); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if in.Annotations["traffic.kuma.io/transparent-proxy-config"][0] != 'r' {
		t.Error("the pod itself was changed")
	}
}

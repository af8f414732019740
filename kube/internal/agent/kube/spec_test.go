package kube

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/mesh-intercept/intercept/podspec"
)

// TestSpecOf: what a container does not say, the pod says; init containers that end
// run beside nobody; and what is kept of a pod says the same.
func TestSpecOf(t *testing.T) {
	user, group, other := int64(1000), int64(2000), int64(1337)
	yes, no, always := new(bool), new(bool), corev1.ContainerRestartPolicyAlways
	*yes = true
	p := pod("x", "1")
	p.Spec.HostNetwork, p.Spec.ShareProcessNamespace = true, yes
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &group, RunAsNonRoot: yes}
	p.Spec.InitContainers = []corev1.Container{{Name: "setup"}, {Name: "proxy", RestartPolicy: &always,
		SecurityContext: &corev1.SecurityContext{RunAsUser: &other, RunAsNonRoot: no, Privileged: yes,
			AllowPrivilegeEscalation: no, Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"},
				Drop: []corev1.Capability{"ALL"}}}}}
	slimmed, err := slim(&p)
	if err != nil {
		t.Fatal(err)
	}
	want := podspec.Pod{HostNetwork: true, ShareProcessNamespace: true, Containers: []podspec.Container{
		{Name: "proxy", RunAsUser: &other, RunAsGroup: &group, RunAsNonRoot: no, AllowPrivilegeEscalation: no,
			Privileged: yes, Add: []string{"NET_ADMIN"}, Drop: []string{"ALL"}},
		{Name: "app", RunAsUser: &user, RunAsGroup: &group, RunAsNonRoot: yes},
	}}
	for _, in := range []*corev1.Pod{&p, slimmed.(*corev1.Pod)} {
		if diff := cmp.Diff(want, specOf(in)); diff != "" {
			t.Error(diff)
		}
	}
	plain := pod("y", "2")
	if diff := cmp.Diff(podspec.Pod{Containers: []podspec.Container{{Name: "app"}}}, specOf(&plain)); diff != "" {
		t.Error(diff)
	}
}

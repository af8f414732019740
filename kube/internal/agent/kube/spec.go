package kube

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/peers/pods"
	"github.com/mesh-intercept/intercept/podspec"
)

// specOf reads what decides who may pass as a pod's proxy: of the containers that run beside each other, what the API
// server's defaults and the pod's own make of their security.
func specOf(p *corev1.Pod) podspec.Pod {
	out := podspec.Pod{HostNetwork: p.Spec.HostNetwork}
	if share := p.Spec.ShareProcessNamespace; share != nil {
		out.ShareProcessNamespace = *share
	}
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out.Containers = append(out.Containers, containerOf(p.Spec.SecurityContext, c))
		}
	}
	for _, c := range p.Spec.Containers {
		out.Containers = append(out.Containers, containerOf(p.Spec.SecurityContext, c))
	}
	return out
}

func containerOf(pod *corev1.PodSecurityContext, c corev1.Container) podspec.Container {
	if pod == nil {
		pod = &corev1.PodSecurityContext{}
	}
	own := c.SecurityContext
	if own == nil {
		own = &corev1.SecurityContext{}
	}
	out := podspec.Container{
		Name: c.Name, RunAsUser: cmp.Or(own.RunAsUser, pod.RunAsUser), RunAsGroup: cmp.Or(own.RunAsGroup, pod.RunAsGroup),
		RunAsNonRoot:             cmp.Or(own.RunAsNonRoot, pod.RunAsNonRoot),
		AllowPrivilegeEscalation: own.AllowPrivilegeEscalation, Privileged: own.Privileged,
	}
	if own.Capabilities != nil {
		for _, capability := range own.Capabilities.Add {
			out.Add = append(out.Add, string(capability))
		}
		for _, capability := range own.Capabilities.Drop {
			out.Drop = append(out.Drop, string(capability))
		}
	}
	return out
}

// slimContainer is what anybody asks about a container.
func slimContainer(c corev1.Container) corev1.Container {
	out := corev1.Container{
		Name: c.Name, Image: c.Image, RestartPolicy: c.RestartPolicy, SecurityContext: c.SecurityContext,
	}
	if slices.Contains(pods.ContainerNames(), c.Name) {
		for _, v := range c.Env {
			if slices.Contains(pods.Variables(), v.Name) {
				out.Env = append(out.Env, corev1.EnvVar{Name: v.Name, Value: v.Value})
			}
		}
	}
	return out
}

// injected are the containers of a pod that another mesh has injected.
func injected(p *corev1.Pod) (all []cniwire.Container) {
	add := func(c corev1.Container, initial bool) {
		if !slices.Contains(pods.ContainerNames(), c.Name) {
			return
		}
		security := containerOf(p.Spec.SecurityContext, c)
		out := cniwire.Container{Name: c.Name, Init: initial, UID: security.RunAsUser, GID: security.RunAsGroup}
		for _, v := range c.Env {
			if out.Env == nil {
				out.Env = map[string]string{}
			}
			out.Env[v.Name] = v.Value
		}
		all = append(all, out)
	}
	for _, c := range p.Spec.InitContainers {
		add(c, c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
	}
	for _, c := range p.Spec.Containers {
		add(c, false)
	}
	return all
}

// Specs are what decides who may pass as the proxies of the pods that are known, by the UIDs of the pods.
func (p *Pods) Specs() map[string]podspec.Pod {
	all := map[string]podspec.Pod{}
	for _, o := range p.store.List() {
		if known, ok := o.(*corev1.Pod); ok {
			all[string(known.UID)] = specOf(known)
		}
	}
	return all
}

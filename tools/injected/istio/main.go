// Command istio prints the init containers that Istio's own injector writes into pods: the template and the values of
// its chart, rendered without a cluster. What it prints is kept in testing/peers/istio/testdata/injected.yaml
// (make injected).
package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/operator/pkg/render"
	"istio.io/istio/pkg/config/mesh"
	"istio.io/istio/pkg/kube/inject"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "istio:", err)
		os.Exit(1)
	}
}

// injected is one pod that the injector has seen.
type injected struct {
	Name string `json:"name"`
	// Kind is the workload's.
	Kind string `json:"kind"`
	// Pod is the pod's own security context.
	Pod *corev1.PodSecurityContext `json:"pod,omitempty"`
	// Container is the init container.
	Container corev1.Container `json:"container"`
	// Native is true of a pod whose proxy is an init container, too (a native sidecar).
	Native bool `json:"native,omitempty"`
	// Proxy is the proxy's image.
	Proxy string `json:"proxy"`
}

// pod is a workload, and how Istio is installed.
type pod struct {
	name, kind  string
	annotations map[string]string
	// set are values of the chart, as in istioctl install --set.
	set []string
}

func pods() []pod {
	const traffic, sidecar = "traffic.sidecar.istio.io/", "sidecar.istio.io/"
	annotated := func(pairs ...string) map[string]string {
		all := map[string]string{sidecar + "nativeSidecar": "false"}
		for i := 0; i < len(pairs); i += 2 {
			all[pairs[i]] = pairs[i+1]
		}
		return all
	}
	cni := []string{"components.cni.enabled=true"}
	return []pod{
		{"deployment", "Deployment", annotated(), nil},
		{"our-image", "Deployment", annotated(), []string{"values.global.proxy_init.image=registry.example/intercept:v1"}},
		{"statefulset", "StatefulSet", annotated(), nil},
		{"daemonset", "DaemonSet", annotated(), nil},
		{"job", "Job", annotated(), nil},
		{"cronjob", "CronJob", annotated(), nil},
		{"native-sidecar", "Deployment", annotated(sidecar+"nativeSidecar", "true"), nil},
		{"tproxy", "Deployment", annotated(sidecar+"interceptionMode", "TPROXY"), nil},
		{"excluded-ports", "Deployment", annotated(traffic+"excludeInboundPorts", "3306,9090",
			traffic+"excludeOutboundPorts", "3306,5432"), nil},
		{"included", "Deployment", annotated(traffic+"includeInboundPorts", "80,8080",
			traffic+"includeOutboundIPRanges", "10.96.0.0/12", traffic+"includeOutboundPorts", "5432",
			traffic+"excludeOutboundIPRanges", "10.100.0.0/16"), nil},
		{"nothing-inbound", "Deployment", annotated(traffic+"includeInboundPorts", ""), nil},
		{"nothing", "Deployment", annotated(traffic+"includeInboundPorts", "", traffic+"includeOutboundIPRanges", ""), nil},
		{"interfaces", "Deployment", annotated(traffic+"excludeInterfaces", "net1",
			"istio.io/reroute-virtual-interfaces", "br-vm"), nil},
		{"dns", "Deployment", annotated(), []string{
			"meshConfig.defaultConfig.proxyMetadata.ISTIO_META_DNS_CAPTURE=true"}},
		{"dual-stack", "Deployment", annotated(), []string{
			"meshConfig.defaultConfig.proxyMetadata.ISTIO_DUAL_STACK=true"}},
		{"drop-invalid", "Deployment", annotated(), []string{
			"meshConfig.defaultConfig.proxyMetadata.INVALID_DROP=true"}},
		{"owner-groups", "Deployment", annotated(), []string{
			"meshConfig.defaultConfig.proxyMetadata.ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=2000"}},
		{"json-logs", "Deployment", annotated(), []string{"values.global.logAsJson=true"}},
		{"native-nftables", "Deployment", annotated(), []string{"values.global.nativeNftables=true"}},
		{"force-apply", "Deployment", annotated(), []string{"unvalidatedValues.global.proxy_init.forceApplyIptables=true"}},
		{"privileged", "Deployment", annotated(), []string{"values.global.proxy.privileged=true"}},
		{"cni", "Deployment", annotated(), cni},
		{"cni-native-sidecar", "Deployment", annotated(sidecar+"nativeSidecar", "true"), cni},
		{"cni-tproxy", "Deployment", annotated(sidecar+"interceptionMode", "TPROXY"), cni},
		{"cni-dns", "Deployment", annotated(), append(cni,
			"meshConfig.defaultConfig.proxyMetadata.ISTIO_META_DNS_CAPTURE=true")},
	}
}

func run() error {
	var all []injected
	for _, p := range pods() {
		i, err := p.inject()
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		all = append(all, i)
	}
	text, err := yaml.Marshal(all)
	if err != nil {
		return err
	}
	_, err = fmt.Printf("# The init containers that Istio's injector writes: make injected. tools/injected/istio has the pods.\n%s", text)
	return err
}

// settings are the injector's, as the chart makes them.
func settings(set []string) (templates inject.Templates, values inject.ValuesConfig, config *meshconfig.MeshConfig, err error) {
	set = append([]string{"profile=empty", "components.pilot.enabled=true"}, set...)
	manifests, _, err := render.GenerateManifest(nil, set, false, nil, nil)
	if err != nil {
		return nil, values, nil, err
	}
	for _, m := range manifests {
		for _, o := range m.Manifests {
			data, _ := o.Object["data"].(map[string]any)
			text := func(key string) string {
				s, _ := data[key].(string)
				return s
			}
			switch {
			case o.GetKind() != "ConfigMap":
			case o.GetName() == "istio-sidecar-injector":
				c, err := inject.UnmarshalConfig([]byte(text("config")))
				if err != nil {
					return nil, values, nil, err
				}
				templates = c.Templates
				if values, err = inject.NewValuesConfig(text("values")); err != nil {
					return nil, values, nil, err
				}
			case o.GetName() == "istio":
				if config, err = mesh.ApplyMeshConfig(text("mesh"), mesh.DefaultMeshConfig()); err != nil {
					return nil, values, nil, err
				}
			}
		}
	}
	return templates, values, config, nil
}

func (p pod) inject() (injected, error) {
	templates, values, config, err := settings(p.set)
	if err != nil {
		return injected{}, err
	}
	template := map[string]any{
		"metadata": map[string]any{"labels": map[string]string{"app": "shop"}, "annotations": p.annotations},
		"spec":     map[string]any{"containers": []any{map[string]any{"name": "shop", "image": "shop"}}},
	}
	spec := map[string]any{"template": template}
	if p.kind == "CronJob" {
		spec = map[string]any{"jobTemplate": map[string]any{"metadata": template["metadata"], "spec": spec}}
	}
	version := "apps/v1"
	if strings.HasSuffix(p.kind, "Job") {
		version = "batch/v1"
	}
	in, err := yaml.Marshal(map[string]any{"apiVersion": version, "kind": p.kind,
		"metadata": map[string]string{"name": "shop", "namespace": "default"}, "spec": spec})
	if err != nil {
		return injected{}, err
	}
	var out bytes.Buffer
	err = inject.IntoResourceFile(nil, templates, values, "", config, bytes.NewReader(in), &out, func(string) {})
	if err != nil {
		return injected{}, err
	}
	var got struct {
		Spec struct {
			Template    corev1.PodTemplateSpec `json:"template"`
			JobTemplate struct {
				Spec struct {
					Template corev1.PodTemplateSpec `json:"template"`
				} `json:"spec"`
			} `json:"jobTemplate"`
		} `json:"spec"`
	}
	first, _, _ := strings.Cut(out.String(), "\n---\n")
	if err := yaml.Unmarshal([]byte(first), &got); err != nil {
		return injected{}, err
	}
	result := got.Spec.Template.Spec
	if p.kind == "CronJob" {
		result = got.Spec.JobTemplate.Spec.Template.Spec
	}
	if len(result.InitContainers) == 0 {
		return injected{}, fmt.Errorf("the injector writes no init container:\n%s", &out)
	}
	i := injected{Name: p.name, Kind: p.kind, Pod: result.SecurityContext, Container: result.InitContainers[0]}
	for at, c := range append(result.InitContainers, result.Containers...) {
		if c.Name == "istio-proxy" {
			i.Proxy, i.Native = c.Image, at < len(result.InitContainers)
		}
	}
	return i, nil
}

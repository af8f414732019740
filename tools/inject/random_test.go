package inject_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/mesh-intercept/intercept/podspec/inject"
)

// dice make pods at random. The same seed makes the same ones.
type dice struct{ *rand.Rand }

func (d dice) one(in int) bool { return d.IntN(in) == 0 }

// pick returns one of several.
func pick[T any](d dice, all ...T) T { return all[d.IntN(len(all))] }

func (d dice) probe(ports []v1.ContainerPort, startup bool) *v1.Probe {
	port := intstr.FromInt32(int32(1 + d.IntN(65535)))
	if len(ports) > 0 && d.one(2) {
		port = intstr.FromString(ports[0].Name)
	}
	p := &v1.Probe{InitialDelaySeconds: int32(d.IntN(3)), TimeoutSeconds: int32(1 + d.IntN(5)), PeriodSeconds: int32(1 + d.IntN(9)),
		FailureThreshold: int32(1 + d.IntN(5))}
	switch d.IntN(4) {
	case 0:
		p.HTTPGet = &v1.HTTPGetAction{Port: port, Path: pick(d, "", "/", "/a?b=c", "/ä%20ö"), Scheme: pick(d, "", v1.URISchemeHTTP,
			v1.URISchemeHTTPS), Host: pick(d, "", "", "", "example.org")}
		if d.one(2) {
			p.HTTPGet.HTTPHeaders = []v1.HTTPHeader{{Name: "Host", Value: "a"}, {Name: "X-Y", Value: `"\n`}}
		}
	case 1:
		p.TCPSocket = &v1.TCPSocketAction{Port: port}
	case 2:
		p.GRPC = &v1.GRPCAction{Port: int32(1 + d.IntN(65535))}
	default:
		p.Exec = &v1.ExecAction{Command: []string{"true"}}
	}
	if !startup && d.one(4) {
		seconds := int64(1 + d.IntN(50))
		p.TerminationGracePeriodSeconds = &seconds
	}
	return p
}

func (d dice) container(name string) v1.Container {
	c := v1.Container{Name: name, Image: pick(d, "a", "a:1", "r.example/a@sha256:"+strings.Repeat("0", 64))}
	for i := range d.IntN(3) {
		c.Ports = append(c.Ports, v1.ContainerPort{Name: fmt.Sprintf("p%d", i), ContainerPort: int32(1024 + d.IntN(60000)),
			Protocol: pick(d, "", v1.ProtocolTCP, v1.ProtocolUDP)})
	}
	if d.one(2) {
		c.Env = []v1.EnvVar{{Name: "A", Value: pick(d, "", "x", "$(B)", "0x10", "null", "{a: b}", "é\u2028\x01")}, {Name: "B",
			ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "status.podIP"}}}}
	}
	if d.one(2) {
		c.Resources.Limits = v1.ResourceList{"memory": resource.MustParse("1Gi"), "cpu": resource.MustParse("0.1")}
	}
	if d.one(2) {
		id := pick(d, int64(0), 1, 1000, 1337, 65534)
		c.SecurityContext = &v1.SecurityContext{RunAsUser: &id}
	}
	if d.one(3) {
		c.VolumeMounts = []v1.VolumeMount{{Name: "v0", MountPath: "/data"}}
	}
	return c
}

func (d dice) pod() *v1.Pod {
	p := &v1.Pod{TypeMeta: meta.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: meta.ObjectMeta{Name: "x", Namespace: "default"}}
	p.Spec.Volumes = []v1.Volume{{Name: "v0", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	for i := range 1 + d.IntN(3) {
		name := pick(d, fmt.Sprintf("c%d", i), fmt.Sprintf("c%d", i), fmt.Sprintf("c%d", i), "haproxy", "mesh-probe")
		if i > 0 {
			name = fmt.Sprintf("c%d", i)
		}
		c := d.container(name)
		if d.one(2) {
			c.ReadinessProbe = d.probe(c.Ports, false)
		}
		if d.one(2) {
			c.LivenessProbe = d.probe(c.Ports, false)
			c.LivenessProbe.SuccessThreshold = 1
		}
		if d.one(4) {
			c.StartupProbe = d.probe(c.Ports, true)
			c.StartupProbe.SuccessThreshold = 1
		}
		if d.one(4) {
			c.Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{HTTPGet: &v1.HTTPGetAction{Port: intstr.FromInt32(80)}}}
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	for i := range d.IntN(3) {
		c := d.container(fmt.Sprintf("i%d", i))
		if always := v1.ContainerRestartPolicyAlways; d.one(3) {
			c.RestartPolicy = &always
			c.ReadinessProbe = d.probe(c.Ports, false)
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	if d.one(3) {
		yes, group := true, int64(2000)
		p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsNonRoot: &yes, FSGroup: &group, SupplementalGroups: []int64{1, 2}}
	}
	p.Spec.HostNetwork = d.one(15)
	p.Spec.RestartPolicy = pick(d, "", v1.RestartPolicyAlways, v1.RestartPolicyNever)
	p.Spec.NodeSelector = pick(d, nil, map[string]string{"kubernetes.io/os": "windows"}, nil, nil)
	p.Annotations = map[string]string{}
	for name, values := range map[string][]string{
		"outbound-exclude-ports": {"80", "80,443", "99999"}, "inject": {"true", "false"}, "inbound-exclude-ports": {"1-10"},
		"sidecar-resources": {`{"haproxy":{"limits":{"memory":"2Gi"}}}`, "{", `{"haproxy":{"limits":{"memory":"1Mi"}}}`,
			`{"haproxy":{"requests":{"cpu":"-1"}}}`, `{"haproxy":{"limits":{"memory":"65535Ki"}}}`,
			`{"haproxy":{"limits":{"cpu":"0.05"}}}`}, "enabled": {"true", "false"}, "dns": {"off"},
		"sidecar-volumes": {`[{"name":"more"}]`, `[{"name":"v0"}]`, `[{"name":"mesh-files"}]`, `[{"name":"more","secret":{}}]`,
			`[{"name":"more"},{"name":"more"}]`, `[{"name":"M_"}]`}, "unknown": {"x"},
		"sidecar-volume-mounts": {`{"haproxy":[{"name":"v0","mountPath":"/v"}]}`, `{"haproxy":[{"name":"none","mountPath":"/v"}]}`,
			`{"haproxy":[{"name":"v0"}]}`},
	} {
		if d.one(12) {
			p.Annotations["intercept.mesh/"+name] = pick(d, values...)
		}
	}
	return p
}

// complaints are what the API server has to say about a pod.
func complaints(t *testing.T, p *v1.Pod) []string {
	t.Helper()
	p = p.DeepCopy()
	legacyscheme.Scheme.Default(p)
	var internal core.Pod
	if err := legacyscheme.Scheme.Convert(p, &internal, nil); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, err := range validation.ValidatePodCreate(&internal, podutil.GetValidationOptionsFromPodSpecAndMeta(&internal.Spec, nil,
		&internal.ObjectMeta, nil)) {
		all = append(all, err.Error())
	}
	return all
}

// TestRandom: of pods at random, those that the API server takes it takes with a sidecar,
// too, or inject refuses them.
func TestRandom(t *testing.T) {
	var profiles []inject.Profile
	for _, name := range inject.Shipped() {
		p, err := inject.ParseProfile(name, []byte(inject.ShippedText(name)))
		if err != nil {
			t.Fatal(err)
		}
		profiles = append(profiles, p)
	}
	injected, refused, invalid := 0, 0, 0
	for seed := range uint64(3000) {
		d := dice{rand.New(rand.NewPCG(seed, 1))}
		pod := d.pod()
		if len(complaints(t, pod)) > 0 {
			invalid++
			continue
		}
		text, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		in := inject.Cluster{Minor: pick(d, 0, 28), PodSecurity: pick(d, "", "baseline")}
		m, err := inject.Read("", text, pick(d, profiles...), in)
		if err != nil {
			refused++
			continue
		}
		documents, err := m.JSON()
		if err != nil || len(documents) != 1 {
			t.Fatalf("%d: %v", seed, err)
		}
		out, _, err := legacyscheme.Codecs.UniversalDeserializer().Decode(documents[0], nil, nil)
		if err != nil {
			t.Fatalf("%d: %v", seed, err)
		}
		if m.Objects[0].Skipped == "" {
			injected++
		}
		for _, e := range complaints(t, out.(*v1.Pod)) {
			t.Errorf("%d: %s\n%s\nbecomes\n%s", seed, e, text, documents[0])
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("%d injected, %d refused, %d would not be taken without a sidecar", injected, refused, invalid)
	if injected < 500 || refused < 100 {
		t.Errorf("%d injected, %d refused", injected, refused)
	}
}

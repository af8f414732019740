package chart_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// TestLint: helm lint has nothing to say but that there is no icon.
func TestLint(t *testing.T) {
	version, err := common.ParseKubeVersion(newest)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range lint.RunAll(chartDir, nil, "default", lint.WithKubeVersion(version)).Messages {
		if m.Severity > support.InfoSev {
			t.Error(m.Error())
		}
	}
}

// TestRefused: a wrong value is refused, by its name.
func TestRefused(t *testing.T) {
	for value, want := range map[string]string{
		"profile=k4s":                          "at '/profile': value must be one of 'kubeadm', 'k3s'",
		"agnet.enabled=false":                  "additional properties 'agnet' not allowed",
		"agent.image.tga=1":                    "at '/agent/image': additional properties 'tga' not allowed",
		"image.digest=sha256:abc":              "at '/image/digest': 'sha256:abc' does not match pattern",
		"image.repository=":                    "at '/image/repository': minLength: got 0, want 1",
		"agent.cniConfDir=etc/cni/net.d":       "at '/agent/cniConfDir': 'etc/cni/net.d' does not match pattern",
		"agent.namespace=Mesh":                 "at '/agent/namespace': 'Mesh' does not match pattern",
		"agent.enabled=maybe":                  "at '/agent/enabled': got string, want boolean",
		"agent.port=0":                         "at '/agent/port': minimum: got 0, want 1",
		"agent.plugin.failurePolicy=open":      "at '/agent/plugin/failurePolicy': value must be one of 'fail', 'allow'",
		"agent.answers=everywhere":             "at '/agent/answers': 'everywhere' does not match pattern",
		"agent.extraArgs={keep-binary}":        "at '/agent/extraArgs/0': 'keep-binary' does not match pattern",
		"injector.replicas=0":                  "at '/injector/replicas': minimum: got 0, want 1",
		"injector.failurePolicy=fail":          "at '/injector/failurePolicy': value must be one of 'Fail', 'Ignore'",
		"injector.profiles.Mine=x":             "at '/injector/profiles': additional properties 'Mine' not allowed",
		"injector.resources.request.cpu=1":     "at '/injector/resources': additional properties 'request' not allowed",
		"labels.team=1":                        "at '/labels/team': got number, want string",
		"monitoring.serviceMonitor.interval=1": "at '/monitoring/serviceMonitor/interval': got number, want string",
	} {
		if _, err := render(t, newest, value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", value, err, want)
		}
	}
	// In the chart of somebody else.
	if _, err := render(t, newest, "global.imageRegistry=example.org"); err != nil {
		t.Error(err)
	}
	if _, err := render(t, newest, "injector.hostNetwork=true"); err == nil ||
		!strings.Contains(err.Error(), "injector.port: 9993 is the agent's (agent.answers)") {
		t.Errorf("two programs at one port of the node: %v", err)
	}
}

// TestEveryValue: each value changes something.
func TestEveryValue(t *testing.T) {
	other := map[string]string{
		"image.repository": "example.org/x", "image.digest": "sha256:" + strings.Repeat("0", 64), "image.pullSecrets": "{a}",
		"agent.image": "repository=example.org/x", "injector.image": "repository=example.org/x",
		"agent.cniConfDir": "/x", "agent.cniBinDir": "/x", "agent.plugin": "backend=nft", "agent.answers": "none",
		"agent.quota": "5", "injector.quota": "5", "agent.maxUnavailable": "1", "injector.minAvailable": "50%",
		"agent.affinity": "nodeAffinity.a=b", "injector.affinity": "nodeAffinity.a=b",
		"agent.tolerations": "[0].key=x", "injector.tolerations": "[0].key=x",
		"agent.resources": "requests.cpu=1", "injector.resources": "requests.cpu=1",
		"agent.extraArgs": "{--x}", "injector.extraArgs": "{--x}", "injector.excludeNamespaces": "{x}",
		"injector.networkPolicy.metricsFrom":    "[0].podSelector.matchLabels.a=b",
		"injector.networkPolicy.apiServerPorts": "{8443}", "monitoring.serviceMonitor.interval": "1m",
	}
	// So that what is made only with something else is made.
	base := []string{"monitoring.serviceMonitor.enabled=true", "monitoring.prometheusRule.enabled=true",
		"monitoring.dashboard.enabled=true", "injector.networkPolicy.enabled=true", "injector.port=9994"}
	text := func(values ...string) string {
		texts, err := render(t, newest, values...)
		if err != nil {
			t.Fatalf("%q: %v", values, err)
		}
		var all strings.Builder
		for _, name := range slices.Sorted(maps.Keys(texts)) {
			all.WriteString(texts[name])
		}
		return all.String()
	}
	was := text(base...)
	walk(properties(t), func(p property) {
		name := strings.Join(p.Path, ".")
		value, is := other[name]
		delete(other, name)
		switch {
		case p.isPart():
			return
		case is && strings.Contains(value, "=") && strings.HasPrefix(value, "["):
			value = name + value
		case is && strings.Contains(value, "="):
			value = name + "." + value
		case is:
			value = name + "=" + value
		case p.Enum != nil:
			another := func(e string) bool { return `"`+e+`"` != p.Default && e != "" }
			value = name + "=" + p.Enum[slices.IndexFunc(p.Enum, another)]
		case p.Type == "boolean":
			value = fmt.Sprintf("%s=%v", name, p.Default == "false" && !slices.Contains(base, name+"=true"))
		case p.Type == "integer":
			value = name + "=7"
		case p.Type == "object":
			value = name + ".a=b"
		default:
			value = name + "=x"
		}
		if text(append(base, value)...) == was {
			t.Errorf("%s changes nothing", value)
		}
	})
	if len(other) > 0 {
		t.Errorf("there are no values %v", other)
	}
}

// find is the object of a kind and name.
func find[T any](t *testing.T, all []object, kind, name string) (found T) {
	t.Helper()
	for _, o := range all {
		if o["kind"] != kind || o["metadata"].(object)["name"] != name {
			continue
		}
		b, err := json.Marshal(o)
		if err == nil {
			err = yaml.UnmarshalStrict(b, &found)
		}
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	t.Fatalf("there is no %s %s", kind, name)
	return found
}

func workloads(t *testing.T, values ...string) (appsv1.DaemonSet, appsv1.Deployment) {
	t.Helper()
	all := objects(t, newest, values...)
	return find[appsv1.DaemonSet](t, all, "DaemonSet", "mesh-cni-agent"),
		find[appsv1.Deployment](t, all, "Deployment", "mesh-injector")
}

func TestImages(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0", 64)
	for _, c := range []struct {
		values          []string
		agent, injector string
	}{
		{nil, "localhost/intercept:dev", "localhost/intercept:dev"},
		{[]string{"image.repository=example.org:5000/i", "image.tag=v1"}, "example.org:5000/i:v1", "example.org:5000/i:v1"},
		{[]string{"image.tag=", "image.digest=" + digest}, "localhost/intercept@" + digest, "localhost/intercept@" + digest},
		{[]string{"image.tag=v2", "agent.image.repository=example.org/i-iptables"}, "example.org/i-iptables:v2",
			"localhost/intercept:v2"},
		{[]string{"injector.image.tag=v3", "injector.image.digest=" + digest}, "localhost/intercept:dev",
			"localhost/intercept:v3@" + digest},
	} {
		agent, injector := workloads(t, c.values...)
		a, i := agent.Spec.Template.Spec.Containers[0].Image, injector.Spec.Template.Spec.Containers[0].Image
		if a != c.agent || i != c.injector {
			t.Errorf("%q: %s, %s", c.values, a, i)
		}
	}
}

// TestUpgrade: what Kubernetes lets nobody change is the same whatever the values are, so that every upgrade goes
// through; and the pods have the labels that are looked for.
func TestUpgrade(t *testing.T) {
	for _, profile := range profiles(t) {
		for _, values := range [][]string{nil, everything, {"injector.hostNetwork=true", "injector.port=9994"}} {
			all := objects(t, newest, append([]string{"profile=" + profile}, values...)...)
			agent := find[appsv1.DaemonSet](t, all, "DaemonSet", "mesh-cni-agent")
			injector := find[appsv1.Deployment](t, all, "Deployment", "mesh-injector")
			for name, s := range map[string]*metav1.LabelSelector{"mesh-cni-agent": agent.Spec.Selector,
				"mesh-injector": injector.Spec.Selector} {
				if diff := cmp.Diff(&metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, s); diff != "" {
					t.Errorf("%s, %q: the selector of %s is another: %s", profile, values, name, diff)
				}
			}
			if agent.Spec.Template.Labels["app"] != "mesh-cni-agent" || injector.Spec.Template.Labels["app"] != "mesh-injector" {
				t.Errorf("%s, %q: labels %v, %v", profile, values, agent.Spec.Template.Labels, injector.Spec.Template.Labels)
			}
			for _, o := range all {
				if role, is := o["roleRef"].(object); is && role["name"] != o["metadata"].(object)["name"] {
					t.Errorf("%s: %v", profile, o)
				}
			}
		}
	}
}

// TestPodSecurity: the namespaces have the labels that their pods need, and no weaker ones.
func TestPodSecurity(t *testing.T) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	levels := []api.Level{api.LevelRestricted, api.LevelBaseline, api.LevelPrivileged}
	host := []string{"injector.hostNetwork=true", "injector.port=9994"}
	for _, values := range [][]string{nil, {"profile=openshift"}, host, everything} {
		all := objects(t, newest, values...)
		agent := find[appsv1.DaemonSet](t, all, "DaemonSet", "mesh-cni-agent")
		injector := find[appsv1.Deployment](t, all, "Deployment", "mesh-injector")
		for name, template := range map[string]corev1.PodTemplateSpec{"mesh-system": agent.Spec.Template,
			"mesh-injector": injector.Spec.Template} {
			lowest := slices.IndexFunc(levels, func(l api.Level) bool {
				return policy.AggregateCheckResults(evaluator.EvaluatePod(
					api.LevelVersion{Level: l, Version: api.LatestVersion()}, &template.ObjectMeta, &template.Spec)).Allowed
			})
			has := find[corev1.Namespace](t, all, "Namespace", name).Labels["pod-security.kubernetes.io/enforce"]
			if string(levels[lowest]) != has {
				t.Errorf("%q: %s enforces %s, and its pods fit %s", values, name, has, levels[lowest])
			}
		}
	}
}

// TestNamespaces: a namespace that the release is in is not made, and nothing is left in another.
func TestNamespaces(t *testing.T) {
	made := func(values ...string) (namespaces, in []string) {
		for _, o := range objects(t, newest, values...) {
			meta := o["metadata"].(object)
			if o["kind"] == "Namespace" {
				namespaces = append(namespaces, meta["name"].(string))
			}
			if namespace, is := meta["namespace"].(string); is && !slices.Contains(in, namespace) {
				in = append(in, namespace)
			}
		}
		slices.Sort(namespaces)
		slices.Sort(in)
		return namespaces, in
	}
	for _, c := range []struct {
		values   []string
		made, in string
	}{
		{nil, "mesh-injector mesh-system", "mesh-injector mesh-system"},
		{everything, "mesh-injector mesh-system", "mesh-injector mesh-system"},
		{[]string{"createNamespaces=false"}, "", "mesh-injector mesh-system"},
		{[]string{"agent.namespace=kube-system", "injector.namespace=x"}, "x", "kube-system x"},
		{[]string{"agent.namespace=x", "injector.namespace=x"}, "x", "x"},
		{[]string{"agent.enabled=false"}, "mesh-injector", "mesh-injector"},
		{[]string{"injector.enabled=false"}, "mesh-system", "mesh-system"},
	} {
		namespaces, in := made(c.values...)
		if strings.Join(namespaces, " ") != c.made || strings.Join(in, " ") != c.in {
			t.Errorf("%q: namespaces %q are made, and objects in %q", c.values, namespaces, in)
		}
	}
	// The plugin leaves the agent's pods alone, and the API server asks about no pod of ours.
	all := objects(t, newest, "agent.namespace=a", "injector.namespace=b")
	conf := find[corev1.ConfigMap](t, all, "ConfigMap", "mesh-cni-agent").Data["plugin.json"]
	for _, want := range []string{`"agentPod": "a/mesh-cni-agent-*"`, `"excludeNamespaces": ["kube-system","a"]`} {
		if !strings.Contains(conf, want) {
			t.Errorf("plugin.json has no %s: %s", want, conf)
		}
	}
}

// TestProfiles: each folder is where the runtime of the distribution looks, and docs/helm.md shows it.
func TestProfiles(t *testing.T) {
	b, err := os.ReadFile(chartDir + "/files/profiles.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]struct{ Notes string }
	if err := yaml.Unmarshal(b, &all); err != nil {
		t.Fatal(err)
	}
	names := profiles(t)
	if diff := cmp.Diff(slices.Sorted(slices.Values(names)), slices.Sorted(maps.Keys(all))); diff != "" {
		t.Errorf("values.schema.json (-) and profiles.yaml (+) have other profiles: %s", diff)
	}
	var table strings.Builder
	table.WriteString("| profile | CNI configuration | CNI plugins | also |\n| --- | --- | --- | --- |\n")
	for _, name := range names {
		agent, _ := workloads(t, "profile="+name)
		dirs := map[string]string{}
		for _, v := range agent.Spec.Template.Spec.Volumes {
			if v.HostPath != nil {
				dirs[v.Name] = v.HostPath.Path
			}
		}
		also := ""
		if o := agent.Spec.Template.Spec.Containers[0].SecurityContext.SELinuxOptions; o != nil {
			also += "SELinux type `" + o.Type + "`. "
		}
		fmt.Fprintf(&table, "| `%s` | `%s` | `%s` | %s%s |\n", name, dirs["cni-conf"], dirs["cni-bin"], also, all[name].Notes)
		texts, err := render(t, newest, "profile="+name)
		if err != nil || !strings.Contains(texts["NOTES.txt"], name+": "+all[name].Notes) {
			t.Errorf("%s: %v: %s", name, err, texts["NOTES.txt"])
		}
	}
	samePart(t, "profiles", table.String())
}

// TestMonitoring: alerts and dashboard are those of deploy/monitoring.
func TestMonitoring(t *testing.T) {
	all := objects(t, newest, everything...)
	b, err := os.ReadFile(deploy + "monitoring/prometheusrule.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var want object
	if err := yaml.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want["spec"], find[object](t, all, "PrometheusRule", "mesh-cni-agent")["spec"]); diff != "" {
		t.Errorf("alerts: %s", diff)
	}
	board, err := os.ReadFile(deploy + "monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if got := find[corev1.ConfigMap](t, all, "ConfigMap", "mesh-cni-agent-dashboard").Data["mesh-cni-agent.json"]; got !=
		string(board) {
		t.Errorf("the dashboard is another")
	}
	// A ServiceMonitor finds its Service, and that the pods, at a port that they have.
	for monitor, service := range map[string]string{
		"mesh-cni-agent": "mesh-cni-agent", "mesh-injector": "mesh-injector-metrics",
	} {
		s := find[corev1.Service](t, all, "Service", service)
		m := find[struct {
			metav1.TypeMeta `json:",inline"`
			Metadata        metav1.ObjectMeta `json:"metadata"`
			Spec            struct {
				Selector  metav1.LabelSelector
				Endpoints []struct{ Port, Interval string }
			}
		}](t, all, "ServiceMonitor", monitor)
		if m.Spec.Selector.MatchLabels["app"] != s.Labels["app"] || s.Spec.Selector["app"] != monitor ||
			m.Spec.Endpoints[0].Port != s.Spec.Ports[0].Name || s.Spec.Ports[0].TargetPort.StrVal != "http" ||
			m.Metadata.Namespace != s.Namespace {
			t.Errorf("%+v does not find %+v", m, s)
		}
	}
	// Otherwise nobody would see the mistakes of the ones that the schemas do not know.
	for name := range foreign {
		if !slices.ContainsFunc(append(all, objects(t, newest, "profile=openshift")...),
			func(o object) bool { return o["kind"] == name }) {
			t.Errorf("no %s is made", name)
		}
	}
}

// TestAppArmor: kubelets before 1.30 read it of an annotation, and their API server refuses the field.
func TestAppArmor(t *testing.T) {
	for version, want := range map[string][]string{
		"v1.29.15": {"metadata"}, "v1.30.0": {"spec"}, "v1.31.0-eks-1234": {"spec"}, "v1.29.9-gke.1000": {"metadata"},
	} {
		var got []string
		template := find[object](t, objects(t, version), "DaemonSet", "mesh-cni-agent")["spec"].(object)["template"].(object)
		for _, part := range slices.Sorted(maps.Keys(template)) {
			b, err := json.Marshal(template[part])
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(bytes.ToLower(b), []byte("apparmor")) {
				got = append(got, part)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", version, diff)
		}
	}
}

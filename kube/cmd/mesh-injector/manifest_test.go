package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/kube/internal/injector"
)

// kubeconfig is a file that names a cluster.
func kubeconfig(t testing.TB, server, token, ca string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := "{apiVersion: v1, kind: Config, current-context: x, clusters: [{name: c, cluster: {server: \"" + server +
		"\", certificate-authority: \"" + ca + "\"}}], users: [{name: u, user: {tokenFile: \"" + token +
		"\"}}], contexts: [{name: x, context: {cluster: c, user: u}}]}"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// parse runs the command up to where it would start, and returns its settings.
func parse(t *testing.T, args, env []string) (s injector.Settings, code int, stderr string) {
	t.Helper()
	var out strings.Builder
	start := func(_ context.Context, got injector.Settings, _ *slog.Logger) error {
		s = got
		return nil
	}
	console := cli.Console{Name: "mesh-injector", Stdout: io.Discard, Stderr: &out, Exits: cli.CommonExits()}
	code = program(console, env, start).Run(t.Context(), args)
	return s, code, out.String()
}

// TestManifest reads deploy/mesh-injector.yaml as the API server does, and its arguments
// as the injector does. kube/testing/cluster shows that it works.
func TestManifest(t *testing.T) {
	text, err := os.ReadFile("../../../deploy/mesh-injector.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var deployment appsv1.Deployment
	var service corev1.Service
	var budget policyv1.PodDisruptionBudget
	var mutating admissionv1.MutatingWebhookConfiguration
	var validating admissionv1.ValidatingWebhookConfiguration
	var namespace corev1.Namespace
	for part := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(part, &kind); err != nil {
			t.Fatal(err)
		}
		object, ok := map[string]any{
			"Namespace": &namespace, "ServiceAccount": &corev1.ServiceAccount{}, "ResourceQuota": &corev1.ResourceQuota{},
			"Role": &rbacv1.Role{}, "RoleBinding": &rbacv1.RoleBinding{}, "ClusterRole": &rbacv1.ClusterRole{},
			"ClusterRoleBinding": &rbacv1.ClusterRoleBinding{}, "Service": &service, "PodDisruptionBudget": &budget,
			"Deployment": &deployment, "MutatingWebhookConfiguration": &mutating, "ValidatingWebhookConfiguration": &validating,
		}[kind.Kind]
		if !ok {
			t.Fatalf("a %q", kind.Kind)
		}
		if err := yaml.UnmarshalStrict(part, object); err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
	}
	container := deployment.Spec.Template.Spec.Containers[0]
	s, code, stderr := parse(t, append(slices.Clone(container.Args), "--kubeconfig", kubeconfig(t, "https://127.0.0.1:1", "", "")),
		[]string{"POD_NAMESPACE=" + deployment.Namespace})
	if code != cli.ExitDone || s.Namespace != namespace.Name || s.Profile != "haproxy" || s.Evict || s.Pprof != "" ||
		container.Command[0] != "/mesh-injector" {
		t.Errorf("%d %s: %+v", code, stderr, s)
	}

	// The Service finds the pods, and the API server the Service, at the paths and the ports that are served.
	pod := labels.Set(deployment.Spec.Template.Labels)
	for what, selector := range map[string]map[string]string{"service": service.Spec.Selector,
		"budget": budget.Spec.Selector.MatchLabels, "deployment": deployment.Spec.Selector.MatchLabels} {
		if !labels.SelectorFromSet(selector).Matches(pod) {
			t.Errorf("%s: %v does not select %v", what, selector, pod)
		}
	}
	if budget.Spec.MinAvailable.IntValue() != 1 || *deployment.Spec.Replicas != 2 {
		t.Error("not one of two may be away")
	}
	if grace := deployment.Spec.Template.Spec.TerminationGracePeriodSeconds; s.Drain <= 0 || grace == nil ||
		s.Drain+injector.EndTime >= time.Duration(*grace)*time.Second {
		t.Errorf("it is killed before it has ended: it drains for %v", s.Drain)
	}
	ports := map[string]int32{}
	for _, p := range container.Ports {
		ports[p.Name] = p.ContainerPort
	}
	if service.Spec.Ports[0].TargetPort.StrVal != "webhook" || ports["webhook"] != 9443 || ports["http"] != 9993 ||
		s.Webhook != ":9443" || s.Listen != ":9993" {
		t.Errorf("%v, %q, %q", ports, s.Webhook, s.Listen)
	}
	hook := func(name string, c admissionv1.WebhookClientConfig, path string, sides *admissionv1.SideEffectClass) {
		if c.Service == nil || c.Service.Name != service.Name || c.Service.Namespace != service.Namespace ||
			*c.Service.Path != path || *c.Service.Port != service.Spec.Ports[0].Port || *sides != admissionv1.SideEffectClassNone {
			t.Errorf("%s: %+v", name, c)
		}
	}
	if mutating.Name != s.Name || validating.Name != s.Name || service.Name != s.Name {
		t.Errorf("%s, %s, %s are not %s", mutating.Name, validating.Name, service.Name, s.Name)
	}
	for _, w := range mutating.Webhooks {
		hook(w.Name, w.ClientConfig, injector.PathPods, w.SideEffects)
		selector, err := metav1.LabelSelectorAsSelector(w.NamespaceSelector)
		if err != nil || *w.FailurePolicy != admissionv1.Fail || *w.ReinvocationPolicy != admissionv1.IfNeededReinvocationPolicy ||
			len(w.MatchConditions) != 2 {
			t.Errorf("%s: %v %+v", w.Name, err, w)
		}
		// The cluster starts without us, whatever labels somebody gives these.
		for _, ns := range []string{"kube-system", "kube-public", "kube-node-lease", namespace.Name} {
			for _, label := range []string{"enabled", "", "x"} {
				if selector.Matches(labels.Set{"kubernetes.io/metadata.name": ns, "intercept.mesh/inject": label}) {
					t.Errorf("%s is asked about pods of %s", w.Name, ns)
				}
			}
		}
	}
	// Which webhook a pod meets, by the label of its namespace and its own.
	for _, c := range []struct{ namespace, pod, meets string }{
		{"enabled", "", "namespace"}, {"enabled", "true", "namespace"}, {"enabled", "false", ""},
		{"", "", ""}, {"", "true", "pod"}, {"", "false", ""}, {"disabled", "", ""}, {"disabled", "true", "pod"},
	} {
		set := func(value string) labels.Set {
			if value == "" {
				return labels.Set{"kubernetes.io/metadata.name": "demo"}
			}
			return labels.Set{"kubernetes.io/metadata.name": "demo", "intercept.mesh/inject": value}
		}
		meets := ""
		for _, w := range mutating.Webhooks {
			ns, err1 := metav1.LabelSelectorAsSelector(w.NamespaceSelector)
			object, err2 := metav1.LabelSelectorAsSelector(w.ObjectSelector)
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			if ns.Matches(set(c.namespace)) && object.Matches(set(c.pod)) {
				meets += strings.TrimSuffix(w.Name, ".injector.intercept.mesh")
			}
		}
		if meets != c.meets {
			t.Errorf("namespace %q, pod %q: asked as %q, not %q", c.namespace, c.pod, meets, c.meets)
		}
	}
	for i, path := range []string{injector.PathWorkloads, injector.PathProfiles} {
		w := validating.Webhooks[i]
		hook(w.Name, w.ClientConfig, path, w.SideEffects)
		if *w.FailurePolicy != admissionv1.Ignore {
			t.Errorf("%s: without the injector nothing can be written", w.Name)
		}
	}
}

func TestFlags(t *testing.T) {
	config := kubeconfig(t, "https://127.0.0.1:1", "", "")
	_, code, stderr := parse(t, []string{"run", "--kubeconfig", config, "--sweep-interval", "5", "--listen", "x", "--pprof", "y",
		"--cert-dir", "certs", "--drain", "soon", "--kubernetes-version", "2", "--profile", "", "--log-level", "loud"}, nil)
	if code != cli.ExitUsage {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"--namespace: empty", `--sweep-interval: "5" is not a duration`, `--listen: "x" is not`,
		`--pprof: "y" is not`, `--drain: "soon" is not`, `--cert-dir: "certs" is not`, `--kubernetes-version: "2" is not`, "--profile: empty", "loud"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in %s", want, stderr)
		}
	}
	if _, _, stderr := parse(t, []string{"run", "--namespace", "Bad NS", "--kubeconfig", config}, nil); !strings.Contains(stderr,
		`--namespace: "Bad NS" is not a name; write small letters, digits and dashes`) {
		t.Error(stderr)
	}
	if _, code, stderr := parse(t, []string{"run", "--namespace", "x", "--kubeconfig", "/nowhere"}, nil); code != cli.ExitUsage ||
		!strings.Contains(stderr, "--kubeconfig: ") {
		t.Errorf("%d: %s", code, stderr)
	}
	s, code, stderr := parse(t, []string{"run", "--kubeconfig", config, "--kubernetes-version", "v1.28.3-eks", "--evict", "--pprof",
		"127.0.0.1:6060"}, []string{"POD_NAMESPACE=mine"})
	if code != cli.ExitDone || s.Minor != 28 || !s.Evict || s.Pprof == "" || s.Namespace != "mine" {
		t.Errorf("%d: %s%+v", code, stderr, s)
	}
	if code := run(t.Context(), []string{"version"}, nil, io.Discard, io.Discard); code != cli.ExitDone {
		t.Errorf("version: %d", code)
	}
}

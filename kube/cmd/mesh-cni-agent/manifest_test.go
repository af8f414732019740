package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept/internal/cli"
)

// TestManifest reads deploy/mesh-cni-agent.yaml as the API server does, and its
// arguments as the agent does. That it works is shown by testing/cluster.
func TestManifest(t *testing.T) {
	text, err := os.ReadFile("../../../deploy/mesh-cni-agent.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var set appsv1.DaemonSet
	var settings corev1.ConfigMap
	var rights []string
	for part := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal(part, &kind); err != nil {
			t.Fatal(err)
		}
		object, ok := map[string]any{
			"Namespace": &corev1.Namespace{}, "ServiceAccount": &corev1.ServiceAccount{}, "ConfigMap": &settings,
			"ResourceQuota": &corev1.ResourceQuota{},
			"Role":          &rbacv1.Role{}, "RoleBinding": &rbacv1.RoleBinding{},
			"ClusterRole": &rbacv1.ClusterRole{}, "ClusterRoleBinding": &rbacv1.ClusterRoleBinding{}, "DaemonSet": &set,
		}[kind.Kind]
		if !ok {
			t.Fatalf("a %q", kind.Kind)
		}
		if err := yaml.UnmarshalStrict(part, object); err != nil {
			t.Errorf("%s: %v", kind.Kind, err)
		}
		if role, is := object.(*rbacv1.ClusterRole); is {
			for _, r := range role.Rules {
				rights = append(rights, fmt.Sprintf("%s: %s of %s in %q", role.Name, r.Verbs, r.Resources, r.APIGroups))
			}
		}
	}
	if diff := cmp.Diff([]string{
		`mesh-cni-agent: [list watch] of [pods] in [""]`,
		`mesh-cni-agent: [create] of [events] in ["events.k8s.io"]`,
		`mesh-cni-agent: [create] of [tokenreviews] in ["authentication.k8s.io"]`,
		`mesh-cni-agent: [create] of [subjectaccessreviews] in ["authorization.k8s.io"]`,
		`kubectl-intercept: [get list create] of [pods/intercept] in [""]`,
	}, rights); diff != "" {
		t.Errorf("rights in all namespaces: %s", diff)
	}
	container := set.Spec.Template.Spec.Containers[0]
	conf := filepath.Join(t.TempDir(), "plugin.json")
	if err := os.WriteFile(conf, []byte(settings.Data["plugin.json"]), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ip := range []string{"192.0.2.10", "2001:db8::10"} {
		var args []string
		for _, a := range container.Args {
			args = append(args, strings.NewReplacer("/etc/mesh-cni/plugin.json", conf, "$(NODE_IP)", ip).Replace(a))
		}
		s, err := parse(t, args, []string{"NODE_NAME=node-1"})
		if err != nil || !s.KeepOnExit || s.Node != "node-1" || s.DaemonSet.String() != set.Namespace+"/"+set.Name {
			t.Errorf("%v: %+v", err, s)
		}
		if host, port, err := net.SplitHostPort(s.Listen); err != nil || host != ip || port != "9992" {
			t.Errorf("listen at %q, %v", s.Listen, err)
		}
		if s.AnswerListen != "127.0.0.1:9993" || s.AnswerSocket != "/run/mesh-cni/answers.sock" {
			t.Errorf("answers at %q and %q", s.AnswerListen, s.AnswerSocket)
		}
	}
	if container.Command[0] != "/mesh-cni-agent" {
		t.Errorf("command %q", container.Command)
	}
}

// parse returns the settings that run is started with.
func parse(t *testing.T, args, env []string) (s settings, err error) {
	t.Helper()
	c := commands{env, cli.Console{Name: "mesh-cni-agent", Stdout: io.Discard, Stderr: io.Discard}}
	p := c.program()
	p.Verbs[0].Run = func(_ context.Context, line cli.Line) int {
		s, err = settle(line, true, env)
		return cli.ExitDone
	}
	if code := p.Run(t.Context(), args); code != cli.ExitDone {
		err = fmt.Errorf("exit code %d", code)
	}
	return s, err
}

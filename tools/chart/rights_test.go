package chart_test

import (
	"fmt"
	"github.com/google/go-cmp/cmp"
	"slices"
	"strings"
	"testing"
)

// right is what a service account may do, and why.
type right struct {
	who, verbs, what, where, why string
	// with is the value that it comes with. Empty: it is always there.
	with string
	// without is the value that takes it away.
	without string
}

const (
	everywhere = "everywhere"
	own        = "its own namespace"
)

// rights are all of them: another one is a mistake.
func rights() []right {
	const agent, injector, asker = "mesh-cni-agent", "mesh-injector", "kubectl-intercept"
	const noAnswers, certManager = "agent.answers=none", "injector.certManager=true"
	return []right{
		{agent, "list, watch", "pods", everywhere,
			"the annotations of its node's pods; RBAC cannot say which node's", "", ""},
		{agent, "create", "events.events.k8s.io", everywhere, "to say of a pod what was repaired or refused", "", ""},
		{agent, "create", "tokenreviews.authentication.k8s.io", everywhere, "who asks about a pod", "", noAnswers},
		{agent, "create", "subjectaccessreviews.authorization.k8s.io", everywhere, "whether they may", "", noAnswers},
		{agent, "get, patch", "nodes", everywhere, "to take the startup taint off", "agent.startupTaint=x/y", ""},
		{agent, "get", "daemonsets.apps mesh-cni-agent", own, "whether it is uninstalled, at its end", "", ""},
		{agent, "get", "namespaces mesh-system", own, "the same", "", ""},
		{agent, "use", "securitycontextconstraints.security.openshift.io mesh-cni-agent", everywhere,
			"OpenShift's admission of its pods; the constraints name the account", "profile=openshift", ""},
		{asker, "get, list, create", "pods/intercept", everywhere,
			"a right that only the agents ask about: the questions of kubectl intercept", "", noAnswers},
		{injector, "get, list, watch", "namespaces", everywhere, "their labels", "", ""},
		{injector, "list", "pods", everywhere, "which have no sidecar", "", ""},
		{injector, "get", "replicasets.apps", everywhere, "whose a pod is", "", ""},
		{injector, "create, patch, update", "events.events.k8s.io", everywhere, "to say why a pod has no sidecar", "", ""},
		{injector, "get, list, watch, patch",
			"mutatingwebhookconfigurations.admissionregistration.k8s.io mesh-injector, " +
				"validatingwebhookconfigurations.admissionregistration.k8s.io mesh-injector", everywhere,
			"the CA bundle in its own", "", certManager},
		{injector, "create", "pods/eviction", everywhere, "to replace pods without a sidecar", "injector.evict=true", ""},
		{injector, "get, list, watch", "configmaps", own, "profiles", "", ""},
		{injector, "get, list, watch, update", "secrets mesh-injector-certs", own, "its certificates", "", certManager},
		{injector, "create", "secrets", own, "the same; who may create one cannot be told by its name", "", certManager},
		{injector, "get, update", "leases.coordination.k8s.io mesh-injector", own, "which replica leads", "", ""},
		{injector, "create", "leases.coordination.k8s.io", own, "the same", "", ""},
	}
}

// granted are the rights that objects give, one a line.
func granted(t *testing.T, all []object) (lines []string) {
	t.Helper()
	words := func(list any) (words []string) {
		for _, w := range list.([]any) {
			words = append(words, w.(string))
		}
		return words
	}
	// A role is bound to the one account of its name.
	bound := map[string]string{}
	for _, o := range all {
		if kind := o["kind"].(string); strings.HasSuffix(kind, "Binding") {
			role, subjects := o["roleRef"].(object), o["subjects"].([]any)
			subject := subjects[0].(object)
			if len(subjects) != 1 || subject["kind"] != "ServiceAccount" || subject["name"] != role["name"] {
				t.Errorf("%s %s is bound to %v", kind, role["name"], subjects)
			}
			bound[fmt.Sprint(role["kind"], " ", role["name"])] = subject["namespace"].(string)
		}
	}
	for _, o := range all {
		kind, meta := o["kind"].(string), o["metadata"].(object)
		name := meta["name"].(string)
		if kind == "SecurityContextConstraints" {
			if users := words(o["users"]); !slices.Equal(users, []string{"system:serviceaccount:mesh-system:" + name}) {
				t.Errorf("constraints for %q", users)
			}
			lines = append(lines, name+": use of securitycontextconstraints.security.openshift.io "+name+", "+everywhere)
		}
		if kind != "Role" && kind != "ClusterRole" {
			continue
		}
		where := everywhere
		if namespace, is := bound[kind+" "+name]; !is {
			t.Errorf("%s %s is bound to nobody", kind, name)
		} else if kind == "Role" {
			if where = own; meta["namespace"] != namespace {
				t.Errorf("%s %s is of %s, and its account of %s", kind, name, meta["namespace"], namespace)
			}
		}
		for _, r := range o["rules"].([]any) {
			rule := r.(object)
			names := []string{""}
			if given := rule["resourceNames"]; given != nil {
				names = words(given)
			}
			var what []string
			for _, group := range words(rule["apiGroups"]) {
				for _, resource := range words(rule["resources"]) {
					for _, of := range names {
						full := resource
						if group != "" {
							full += "." + group
						}
						what = append(what, strings.TrimSpace(full+" "+of))
					}
				}
			}
			lines = append(lines, fmt.Sprintf("%s: %s of %s, %s", name, strings.Join(words(rule["verbs"]), ", "),
				strings.Join(what, ", "), where))
		}
	}
	slices.Sort(lines)
	return lines
}

// TestRights: each service account may do what stands in the table, whatever the values are, and docs/helm.md shows it.
func TestRights(t *testing.T) {
	var table strings.Builder
	table.WriteString("| service account | may | where | why | with |\n| --- | --- | --- | --- | --- |\n")
	values := []string{""}
	for _, r := range rights() {
		with := "`" + r.with + "`"
		switch {
		case r.without != "":
			with = "not with `" + r.without + "`"
		case r.with == "":
			with = ""
		}
		fmt.Fprintf(&table, "| `%s` | %s `%s` | %s | %s | %s |\n", r.who, r.verbs, r.what, r.where, r.why, with)
		for _, v := range []string{r.with, r.without} {
			if !slices.Contains(values, v) {
				values = append(values, v)
			}
		}
	}
	samePart(t, "rights", table.String())
	for _, v := range values {
		var want []string
		for _, r := range rights() {
			if (r.with == "" || r.with == v) && (r.without == "" || r.without != v) {
				want = append(want, fmt.Sprintf("%s: %s of %s, %s", r.who, r.verbs, r.what, r.where))
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, granted(t, objects(t, newest, v))); diff != "" {
			t.Errorf("%s: rights are missing (-) or too many (+):\n%s", v, diff)
		}
	}
}

package podspec

import (
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
)

// careful is a container of which nothing is to be said.
func careful(name string, user int64) Container {
	return Container{Name: name, RunAsUser: &user, RunAsGroup: &user, AllowPrivilegeEscalation: new(bool),
		Drop: []string{"ALL"}}
}

// TestLint: each way to pass as the proxy or past it is found by itself.
func TestLint(t *testing.T) {
	yes, no := new(bool), new(bool)
	*yes = true
	const ids, caps, raw, all = "set-id-programs", "set-id-capabilities", "raw-sockets", "privileged"
	with := func(k Container) Pod { return Pod{Containers: []Container{careful("app", 1), k}} }
	proxy := careful("proxy", 1337)
	root := int64(0)
	app := func(change func(*Container)) Pod {
		k := careful("app", 1000)
		change(&k)
		return Pod{Containers: []Container{k, proxy}}
	}
	escalating := func(k *Container) { k.AllowPrivilegeEscalation, k.Drop = nil, nil }
	noRaw := func(k *Container) { k.RunAsUser, k.Drop = &root, []string{"NET_RAW"} }
	setGID := func(k *Container) { k.RunAsUser, k.Add = &root, []string{"CAP_SETGID"} }
	for name, tt := range map[string]struct {
		pod  Pod
		want []string
	}{
		"nothing":              {app(func(*Container) {}), nil},
		"no containers":        {Pod{}, nil},
		"hostNetwork":          {Pod{HostNetwork: true}, []string{"host-network"}},
		"the proxy may more":   {with(Container{Name: "p", RunAsUser: proxy.RunAsUser}), nil},
		"by its group":         {with(Container{Name: "p", RunAsGroup: proxy.RunAsGroup}), nil},
		"an app's user":        {app(func(k *Container) { k.RunAsUser = proxy.RunAsUser }), []string{"proxy-identity"}},
		"an app's group":       {app(func(k *Container) { k.RunAsGroup = proxy.RunAsGroup }), []string{"proxy-identity"}},
		"Kubernetes' defaults": {Pod{Containers: []Container{{Name: "app"}, proxy}}, []string{ids, caps, raw}},
		"no root":              {Pod{Containers: []Container{{Name: "app", RunAsNonRoot: yes}}}, []string{ids, raw}},
		"no root by number": {Pod{Containers: []Container{{Name: "app", RunAsUser: careful("", 5).RunAsUser}}},
			[]string{ids, raw}},
		"escalation":            {app(func(k *Container) { k.AllowPrivilegeEscalation = yes }), []string{ids}},
		"escalation, not said":  {app(func(k *Container) { k.AllowPrivilegeEscalation = nil }), []string{ids}},
		"NET_RAW of no root":    {app(func(k *Container) { k.Add = []string{"NET_RAW"} }), nil},
		"NET_RAW of root":       {app(func(k *Container) { k.RunAsUser, k.Add = &root, []string{"NET_RAW"} }), []string{raw}},
		"NET_RAW, escalation":   {app(escalating), []string{ids, raw}},
		"root without":          {app(func(k *Container) { k.RunAsUser = &root }), nil},
		"root without NET_RAW":  {app(noRaw), []string{caps}},
		"SETGID of root":        {app(setGID), []string{caps}},
		"privileged":            {app(func(k *Container) { k.Privileged = yes }), []string{all, ids, raw}},
		"not privileged":        {app(func(k *Container) { k.Privileged = no }), nil},
		"NET_ADMIN":             {app(func(k *Container) { k.Add = []string{"NET_ADMIN"} }), []string{all}},
		"all, in small letters": {app(func(k *Container) { k.Add, k.Drop = []string{"all"}, nil }), []string{all, ids, raw}},
		"SYS_PTRACE":            {app(func(k *Container) { k.Add = []string{"SYS_PTRACE"} }), nil},
		"SYS_PTRACE, a shared namespace": {Pod{ShareProcessNamespace: true, Containers: []Container{
			{Name: "a", RunAsUser: proxy.RunAsUser}, func() Container {
				k := careful("app", 5)
				k.Add = []string{"SYS_PTRACE"}
				return k
			}()}}, []string{all}},
	} {
		var got []string
		for _, w := range Lint(intercept.Default(), tt.pod) {
			got = append(got, w.ID)
			if len(w.Containers) > 0 && !strings.Contains(w.String(), "app") || !strings.HasSuffix(w.String(), w.Remedy) {
				t.Errorf("%s: %s", name, w)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// TestHazards: each has an ID of its own, and is found by TestLint or not at all.
func TestHazards(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range Hazards() {
		if seen[w.ID] || w.Text == "" || w.Remedy == "" || strings.ContainsAny(w.Text+w.Remedy, "|\n") {
			t.Errorf("%+v", w)
		}
		seen[w.ID] = true
	}
}

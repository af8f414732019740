package inject_test

import (
	"os"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/podspec/inject"
)

// TestLintSources: what cannot be read is an error that names the source and the line; Services are known across
// sources, and those of another namespace are others'.
func TestLintSources(t *testing.T) {
	pod := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"x","labels":{"l":"m"},"annotations":
		{"intercept.mesh/enabled":"true"}},"spec":{"containers":[{"name":"c","ports":[{"containerPort":80,"name":"h"}]}]}}`
	service := `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s","namespace":"x"},"spec":{"clusterIP":"None",
		"selector":{"l":"m"},"ports":[{"port":7,"targetPort":"h"}]}}`
	lint := func(texts ...string) (string, error) {
		var sources []inject.Source
		for i, text := range texts {
			sources = append(sources, inject.Source{Name: string(rune('a' + i)), Text: []byte(text)})
		}
		found, _, err := inject.Lint(sources)
		all := ""
		for _, f := range found {
			all += f.File + " " + f.ID + " " + f.Object + "\n"
		}
		return all, err
	}
	if got, err := lint(pod, service); err != nil || got != "b headless-port service/x/s\n" {
		t.Errorf("%v: %q", err, got)
	}
	for _, other := range []string{strings.Replace(service, `"x"`, `"y"`, 1), strings.Replace(service, `"m"`, `"n"`, 1),
		strings.Replace(service, `"None"`, `"10.0.0.1"`, 1), strings.Replace(service, `"port":7`, `"port":80`, 1)} {
		if got, err := lint(pod, other); err != nil || got != "" {
			t.Errorf("%s: %v: %q", other, err, got)
		}
	}
	// No namespace is that which most have.
	inDefault, unnamed := strings.Replace(pod, `"x"`, `"default"`, 1), strings.Replace(service, `"namespace":"x"`, `"a":"x"`, 1)
	if got, err := lint(inDefault, unnamed); err != nil || got != "b headless-port service/s\n" {
		t.Errorf("%v: %q", err, got)
	}
	if got, err := lint(pod, unnamed); err != nil || got != "" {
		t.Errorf("%v: %q", err, got)
	}
	// What is misspelt hides nothing else that is wrong.
	misspelt := strings.Replace(pod, `"true"`, `"true","intercept.mesh/dnns":"all","intercept.mesh/inbound-exclude-ports":"99"`, 1)
	if got, err := lint(misspelt); err != nil || got != "a annotation pod/x/a\na excluded-port pod/x/a\n" {
		t.Errorf("%v: %q", err, got)
	}
	// They are in the order of the files.
	if got, err := lint(service, misspelt); err != nil ||
		got != "a headless-port service/x/s\nb annotation pod/x/a\nb excluded-port pod/x/a\n" {
		t.Errorf("%v: %q", err, got)
	}
	for _, nothing := range []string{"", "\n", "# a comment\n", "---\n"} {
		if _, err := lint(nothing); err == nil || !strings.Contains(err.Error(), "a: nothing was read") {
			t.Errorf("%q: %v", nothing, err)
		}
		if got, err := lint(pod, nothing); err != nil || got != "" {
			t.Errorf("%q beside a pod: %v: %q", nothing, err, got)
		}
	}
	if _, err := lint(pod, "a: [\n"); err == nil || !strings.Contains(err.Error(), "b") {
		t.Errorf("%v", err)
	}
}

// TestLintInjected: nothing is wrong with what was injected, by whatever profile and in whatever mode. An app that runs
// as the proxy's user is found there all the same.
func TestLintInjected(t *testing.T) {
	const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[` +
		`{"name":"app","image":"app","ports":[{"containerPort":8080}],"readinessProbe":{"httpGet":{"port":8080}}},` +
		`{"name":"other","image":"other"}]}}`
	lint := func(text string) (all []string) {
		t.Helper()
		found, pods, err := inject.Lint([]inject.Source{{Name: "a", Text: []byte(text)}})
		if err != nil || pods != 1 {
			t.Fatalf("%d pods, %v", pods, err)
		}
		for _, f := range found {
			all = append(all, f.ID+" "+f.Field+" "+strings.SplitN(f.Happens, ":", 2)[0])
		}
		return all
	}
	for _, profile := range inject.Shipped() {
		for _, mode := range []inject.Mode{inject.ModeInit, inject.ModeCNI} {
			for _, minor := range []int{0, 28} {
				p := shipped(t, profile)
				p.Mode = mode
				injected := string(read(t, pod, p, inject.Cluster{Minor: minor}).Text())
				if got := lint(injected); got != nil {
					t.Errorf("%s, %s, 1.%d: %q", profile, mode, minor, got)
				}
				const other = `"image":"other"`
				if strings.Count(injected, other) != 1 {
					t.Fatalf("%s is not in %s", other, injected)
				}
				got := lint(strings.Replace(injected, other, other+`,"securityContext":{"runAsUser":1337}`, 1))
				if len(got) != 1 || !strings.HasPrefix(got[0], "proxy-identity spec.containers[") ||
					!strings.HasSuffix(got[0], ".securityContext other") {
					t.Errorf("%s, %s, 1.%d, with an app as user 1337: %q", profile, mode, minor, got)
				}
			}
		}
	}
	// A list that cannot be read names nobody.
	unreadable := strings.Replace(pod, `"name":"a"`, `"name":"a","annotations":{"intercept.mesh/injected":"["}`, 1)
	unreadable = strings.Replace(unreadable, `,"readinessProbe":{"httpGet":{"port":8080}}`, "", 1)
	unreadable = strings.ReplaceAll(unreadable, `"image":`, `"securityContext":{"runAsUser":1337},"image":`)
	if got := lint(unreadable); len(got) != 1 || !strings.HasPrefix(got[0], "proxy-identity ") {
		t.Errorf("%q", got)
	}
}

// FuzzLint: any text is an error, or has findings that say all they have to.
func FuzzLint(f *testing.F) {
	script, err := os.ReadFile("../../cmd/mesh-init/testdata/script/lint.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for file := range strings.SplitSeq(string(script), "\n-- ") {
		_, text, _ := strings.Cut(file, " --\n")
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		found, pods, err := inject.Lint([]inject.Source{{Name: "a", Text: []byte(text)}})
		if err != nil && (found != nil || pods != 0) {
			t.Errorf("%v, and %v", err, found)
		}
		for _, one := range found {
			if one.ID == "" || one.Field == "" || one.Object == "" || one.Happens == "" || strings.Contains(one.String(), "\n") {
				t.Errorf("%+v", one)
			}
		}
	})
}

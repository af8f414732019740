// Package modules_test looks at what the library's go.mod demands of programs that
// import the library.
package modules_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/mesh-intercept/intercept"

// command runs a program in a directory, with the modules of that directory's
// go.mod alone, and returns what it prints.
func command(t *testing.T, dir, stdin, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	// A newer Go than the one that runs would be fetched without a word.
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOTOOLCHAIN=local")
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// TestLibraryNeedsNoKubernetes: nothing of Kubernetes or of the agent is in the
// library's module graph, where scanners look.
func TestLibraryNeedsNoKubernetes(t *testing.T) {
	modules := command(t, ".", "", "go", "list", "-m", "-f", "{{.Path}}", "all")
	if !strings.Contains(modules, module+"\n") || strings.Contains(modules, module+"/") {
		t.Errorf("not the library's modules, or ours of more than one:\n%s", modules)
	}
	foreign := regexp.MustCompile(`(?m)^(k8s\.io/|github\.com/(prometheus|fsnotify|google/go-containerregistry)(/|$)).*`)
	if found := foreign.FindAllString(modules, -1); found != nil {
		t.Errorf("they belong into the module kube: %q", found)
	}
}

// TestConsumer: a program that imports the library keeps its own, older version
// of Kubernetes' API, and needs no newer Go than the older one of the two
// releases that the Go project supports.
func TestConsumer(t *testing.T) {
	const api, oldestGo = "v0.34.1", "1.26.0"
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	source, err := os.ReadFile("testdata/webhook/main.go")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"main.go": string(source),
		// go mod tidy raises the line `go` to what the modules it needs demand.
		"go.mod": "module example.com/webhook\n\ngo 1.24.0\n\n" +
			"require (\n\tk8s.io/api " + api + "\n\t" + module + " v0.0.0\n)\n\n" +
			"replace " + module + " => " + root + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	command(t, dir, "", "go", "mod", "tidy")
	if got := command(t, dir, "", "go", "list", "-m", "-f", "{{.Version}}", "k8s.io/api"); got != api {
		t.Errorf("k8s.io/api is %s now, and was %s", got, api)
	}
	if got := command(t, dir, "", "go", "list", "-m", "-f", "{{.GoVersion}}"); got != oldestGo {
		t.Errorf("Go %s is needed; want %s", got, oldestGo)
	}
	pod := `{"metadata":{"name":"web","annotations":{
		"intercept.mesh/enabled":"true","intercept.mesh/outbound-exclude-ports":"5432,6000-6010"}}}`
	if got, want := command(t, dir, pod, "go", "run", "."), "web enabled 5432,6000-6010"; got != want {
		t.Errorf("the program prints %q, want %q", got, want)
	}
}

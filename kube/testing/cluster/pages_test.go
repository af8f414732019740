//go:build linux && cluster

package cluster

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/testing/program"
	"github.com/mesh-intercept/intercept/testing/quickstart"
)

// TestGettingStarted types the commands of docs/getting-started.md into a cluster.
func TestGettingStarted(t *testing.T) {
	part := filepath.Join(t.TempDir(), "part")
	if err := program.Build(part, "testing/part"); err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, part, options{proxy: "iptables"})
	c.importImages()
	c.apply(c.file("testdata/coredns.yaml"))
	c.kubectl("rollout", "status", "-n", "kube-system", "deploy/coredns", "--timeout=120s")
	c.typeSection("../../../docs/getting-started.md", "In a cluster", nil)
}

// setUp runs the block of a page, the first in the language sh, that sets up what the rest
// of the page needs: in a directory with more files and deploy/.
func (c *cluster) setUp(page string, files map[string]string) {
	c.t.Helper()
	c.runScripts(c.scripts(page)[:1], files)
}

// scripts are the blocks of a page in the language sh.
func (c *cluster) scripts(page string) (all []string) {
	c.t.Helper()
	for _, rest := range strings.Split(c.file(page), "\n```sh\n")[1:] {
		script, _, _ := strings.Cut(rest, "\n```\n")
		all = append(all, script)
	}
	if len(all) == 0 {
		c.t.Fatalf("%s runs nothing", page)
	}
	return all
}

// runScripts runs scripts in such a directory. Each has to succeed.
func (c *cluster) runScripts(scripts []string, files map[string]string) {
	c.t.Helper()
	dir := c.pageDir(files)
	for _, script := range scripts {
		out, err := c.Output("/bin/bash", "-ec", "exec 2>&1; set -o pipefail; cd "+dir+"; PATH="+dir+":$PATH; "+script)
		if err != nil {
			c.t.Fatalf("%s: %v: %s", script, err, out)
		}
		c.t.Logf("%s: %s", script, out)
	}
}

// pageDir is a directory with files, deploy/, and a kubectl and a helm for the cluster.
func (c *cluster) pageDir(files map[string]string) string {
	c.t.Helper()
	dir := c.t.TempDir()
	must := func(err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
	}
	manifests, err := filepath.Abs("../../../deploy")
	must(err)
	must(os.Symlink(manifests, filepath.Join(dir, "deploy")))
	kubectl := "#!/bin/sh\nexec " + c.program + " kubectl --kubeconfig " + c.Path("admin.kubeconfig") + " --cache-dir " +
		c.Path("kubectl") + " \"$@\"\n"
	must(os.WriteFile(filepath.Join(dir, "kubectl"), []byte(kubectl), 0o755))
	helm := "#!/bin/sh\nexec " + filepath.Join(filepath.Dir(c.program), "helm") + " --kubeconfig " +
		c.Path("admin.kubeconfig") + " \"$@\"\n"
	must(os.WriteFile(filepath.Join(dir, "helm"), []byte(helm), 0o755))
	for name, text := range files {
		must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

// typePage types the commands of a page, in a directory with its files, more files and
// deploy/, and compares what they print with what the page shows. With MESH_TEST_UPDATE=1
// it writes that into the page instead.
func (c *cluster) typePage(page string, files map[string]string) {
	c.t.Helper()
	c.typeCommands(page, quickstart.Read(c.t, page), files)
}

// typeSection does the same with the commands under one heading of the second level.
func (c *cluster) typeSection(page, section string, files map[string]string) {
	c.t.Helper()
	c.typeCommands(page, quickstart.Read(c.t, page).Under(c.t, section), files)
}

func (c *cluster) typeCommands(page string, shown quickstart.Page, files map[string]string) {
	c.t.Helper()
	must := func(err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
	}
	maps.Copy(shown.Files, files)
	dir := c.pageDir(shown.Files)

	updates := os.Getenv("MESH_TEST_UPDATE") == "1"
	b, err := os.ReadFile(page)
	must(err)
	before, rest := "", string(b) // of what is typed
	for _, command := range shown.Commands {
		c.Await("the end of pods that are going", func() bool { // whoever types takes longer
			return c.kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.deletionTimestamp}") == ""
		})
		var printed string
		run := func() {
			printed, _ = c.Output("/bin/bash", "-c", "cd "+dir+"; PATH="+dir+":$PATH; "+command.Line)
			if printed != "" {
				printed += "\n"
			}
		}
		if run(); strings.Contains(command.Line, "kubectl logs") { // a connection is logged at its end
			for end := time.Now().Add(20 * time.Second); same(printed) != same(command.Output) && time.Now().Before(end); run() {
				<-time.After(time.Second)
				if updates {
					end = time.Now()
				}
			}
		}
		prompt := "$ " + command.Line + "\n"
		text, after, _ := strings.Cut(rest, prompt)
		before, rest = before+text+prompt, after
		switch {
		case same(printed) == same(command.Output):
		case updates:
			before, rest = before+waiting.ReplaceAllString(printed, ""), strings.TrimPrefix(rest, command.Output)
		default:
			c.t.Errorf("%s: the page shows (-), and it printed (+):\n%s", command.Line, cmp.Diff(command.Output, printed))
		}
	}
	if updates {
		must(os.WriteFile(page, []byte(before+rest), 0o644))
	}
}

var (
	waiting = regexp.MustCompile(`(?m)^Waiting for .*\n`)
	// What is different each time: parts of names, addresses of pods and Services,
	// ports of clients, how long something has been there, and spaces for those.
	changing = []struct {
		what *regexp.Regexp
		is   string
	}{
		{waiting, ""},
		{regexp.MustCompile(`-[0-9a-z]{8,10}-[0-9a-z]{5}\b`), "-NAME"},
		{regexp.MustCompile(`-[0-9a-z]{5}\b`), "-NAME"},
		{regexp.MustCompile(`\b10\.(88|96)(\.\d+){2}\b`), "10.$1.ADDRESS"},
		{regexp.MustCompile(`:\d{5}\b`), ":PORT"},
		{regexp.MustCompile(`\b\d+(m\d+)?[smh]\b`), "AGE"},
		{regexp.MustCompile(` +`), " "},
	}
)

// same is a text without what is different each time.
func same(text string) string {
	for _, c := range changing {
		text = c.what.ReplaceAllString(text, c.is)
	}
	return text
}

//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
	"github.com/mesh-intercept/intercept/testing/quickstart"
)

// TestShownCommands runs the commands that pages show mesh-init with, in the order of a page: each has to succeed. The
// network namespace /run/netns/pod has a sidecar. kubectl is one that reads what it is given and knows one Deployment.
func TestShownCommands(t *testing.T) {
	netlab.Require(t)
	for _, name := range []string{"curl", "mount"} {
		netlab.RequireProgram(t, name)
	}
	dir := shownDir(t)
	pages := []string{}
	blocks := map[string][]quickstart.Block{}
	for _, r := range quickstart.Runs() {
		if r.Test != quickstart.Shown || r.Why != "" {
			continue
		}
		for _, b := range quickstart.Read(t, "../../"+r.Page).Blocks {
			if r.Covers(r.Page, b) {
				if blocks[r.Page] == nil {
					pages = append(pages, r.Page)
				}
				blocks[r.Page] = append(blocks[r.Page], b)
			}
		}
	}
	for _, page := range pages {
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Parallel()
			lab := netlab.NewT(t, netlab.Options{})
			if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
				t.Fatal(err)
			}
			// $1 is the directory, and $2 the pod's namespace. In a PID namespace there is no other pod for --all to find.
			script := `pod=$2; exec 2>&1
				mount -t tmpfs tmpfs /run && mkdir /run/netns && touch /run/netns/pod && mount --bind "$pod" /run/netns/pod &&
				mount -t tmpfs -o mode=755 tmpfs /mnt && cp -r "$1"/. /mnt && mount -t proc proc /proc && cd /mnt || exit
				PATH=/mnt:$PATH
				mesh-init apply -n /run/netns/pod --dns all || exit
			`
			const mark = "=== command" // before the number of each in the output
			var lines []string
			for _, b := range blocks[page] {
				for line := range strings.Lines(strings.ReplaceAll(b.Body, "\\\n", "")) {
					if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
						continue
					}
					script += fmt.Sprintf("echo '%s %d'\n%s\necho \"exit code $?\"\n", mark, len(lines), meanwhile(line))
					lines = append(lines, line)
				}
			}
			cmd := exec.Command("bash", "-c", script, "bash", dir, lab.Pod.Path())
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID,
				Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := lab.Pod.Start(cmd, nil); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			printed := strings.Split(out.String(), mark+" ")
			if err != nil || len(printed) != len(lines)+1 {
				t.Fatalf("%d of %d commands were run: %v\n%s", len(printed)-1, len(lines), err, &out)
			}
			for i, line := range lines {
				if !strings.HasSuffix(printed[i+1], "\nexit code 0\n") {
					t.Errorf("%s\n%s", line, printed[i+1])
				}
			}
		})
	}
}

// meanwhile is a command with what somebody does while it runs: calls, and an end when it has told of something.
func meanwhile(line string) string {
	switch {
	case strings.Contains(line, " trace "):
		return "(for call in {1..100}; do curl -s -m 1 -o /dev/null http://10.1.2.3:443/; sleep 0.1; done) & " + line
	case strings.Contains(line, " watch "):
		return "coproc WATCH { exec " + line + "; }\npid=$WATCH_PID; read -r first <&${WATCH[0]}; kill $pid; wait $pid"
	}
	return line
}

// shownDir is a directory with mesh-init and the files that commands name.
func shownDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := program.Build(filepath.Join(dir, "mesh-init"), "cmd/mesh-init"); err != nil {
		t.Fatal(err)
	}
	mesh := "dns: {mode: all}\noutbound: {excludePorts: [5432]}\n"
	app := quickstart.Read(t, "../../docs/injection.md").File(t, "app.yaml")
	for name, text := range map[string]string{
		"mesh.yaml": mesh, "old.yaml": mesh, "new.yaml": mesh,
		"app.yaml": app, "manifests/app.yaml": app,
		"deployment.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  template:\n    spec:\n" +
			"      initContainers:\n      - name: linkerd-init\n        image: cr.l5d.io/linkerd/proxy-init:v2.4.2\n" +
			"        args: [--incoming-proxy-port, \"4143\", --outgoing-proxy-port, \"4140\", --proxy-uid, \"2102\"]\n",
		"kubectl": "#!/bin/sh\ncase \"$1 $3\" in\nget*) cat /mnt/deployment.yaml ;;\n*-) cat >/dev/null ;;\nesac\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
	"github.com/mesh-intercept/intercept/testing/quickstart"
)

const page = "../../docs/quickstart.md"

// TestQuickstart types the commands of docs/quickstart.md, in the directory
// with its files, and compares what they print with what the page shows. With
// MESH_TEST_UPDATE=1 it writes that into the page instead.
//
// The namespaces that the page makes are in a mount namespace of the test's
// own, and the programs in a PID namespace: nothing is left behind.
func TestQuickstart(t *testing.T) {
	netlab.Require(t)
	for _, name := range []string{"haproxy", "dnsmasq", "ip", "setpriv", "curl", "mount"} {
		netlab.RequireProgram(t, name)
	}
	dir := t.TempDir()
	if err := program.Build(filepath.Join(dir, "mesh-init"), "cmd/mesh-init"); err != nil {
		t.Fatal(err)
	}
	shown := quickstart.Read(t, page)
	for name, text := range shown.Files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	// $1 is the directory. The proxy's user may not enter it.
	script := `
		mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mount -t tmpfs -o mode=755 tmpfs /mnt &&
		cp "$1"/* /mnt && cd /mnt && PATH=/mnt:$PATH &&
		echo nameserver 10.96.0.10 > resolv.conf && mount --bind resolv.conf /etc/resolv.conf || exit
		await() { # for ten seconds at most
			for try in {1..1000}; do
				"$@" && return
				sleep 0.01
			done
			echo "in vain: $*"
		}
		listens() { [[ $(ip netns exec pod cat /proc/net/tcp) == *:$1\ 00000000:0000\ 0A* ]]; }
		logged() { [[ $(wc -l < haproxy.log) == $1 ]]; }
	`
	for i, c := range shown.Commands {
		if strings.HasSuffix(c.Line, " haproxy.log") { // HAProxy logs a connection when it has ended
			script += fmt.Sprintf("await logged %d\n", strings.Count(c.Output, "\n"))
		}
		script += fmt.Sprintf("echo '%s %d'\n%s\n", mark, i, c.Line)
		for program, ports := range map[string][]int{"haproxy": {15001, 15006, 15021}, "dnsmasq": {15053}} {
			if strings.HasPrefix(c.Line, "sidecar "+program) {
				for _, port := range ports {
					script += fmt.Sprintf("await listens %04X\n", port)
				}
			}
		}
	}
	cmd := exec.Command("bash", "-c", script, "bash", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Unshareflags: syscall.CLONE_NEWNS, // and makes it private
		Pdeathsig:    syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	printed := strings.Split(string(out), mark+" ")
	if len(printed) != len(shown.Commands)+1 {
		t.Fatalf("%d of %d commands were run:\n%s", len(printed)-1, len(shown.Commands), out)
	}
	if os.Getenv("MESH_TEST_UPDATE") == "1" {
		update(t, shown.Commands, printed[1:])
		return
	}
	for i, c := range shown.Commands {
		_, got, _ := strings.Cut(printed[i+1], "\n")
		if diff := cmp.Diff(ports(c.Output), ports(got)); diff != "" {
			t.Errorf("%s: the page shows (-), and it printed (+):\n%s", c.Line, diff)
		}
	}
}

// mark stands in the output before the number of each command.
const mark = "=== command"

var ephemeral = regexp.MustCompile(`:(3[2-9]|4\d|5\d|6\d)\d{3}\b`)

// ports makes all ports that the kernel chooses the same.
func ports(s string) string { return ephemeral.ReplaceAllString(s, ":PORT") }

// update writes what the commands printed into the page, where it differs.
func update(t *testing.T, commands []quickstart.Command, printed []string) {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i, c := range commands {
		_, got, _ := strings.Cut(printed[i], "\n")
		if ports(c.Output) != ports(got) {
			prompt := "$ " + c.Line + "\n"
			text = strings.Replace(text, prompt+c.Output, prompt+got, 1)
		}
	}
	if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

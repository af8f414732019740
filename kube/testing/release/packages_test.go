//go:build linux && release

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// machine is the root of a new Debian machine, which ends with the test.
func machine(t *testing.T) string {
	t.Helper()
	netlab.Require(t)
	netlab.RequireProgram(t, "mount")
	const cache = "/var/cache/intercept-fresh"               // where testing/fresh/run keeps them, too
	run := exec.Command(source+"/testing/fresh/run", "true") // makes the file system, the first time
	run.Env = append(os.Environ(), "FRESH_SUITE=trixie", "FRESH_CACHE="+cache)
	output(t, run)
	packed, err := filepath.Glob(filepath.Join(cache, "trixie-*.tar"))
	if err != nil || len(packed) != 1 {
		t.Fatalf("file systems in %s: %q, %v", cache, packed, err)
	}
	root := t.TempDir()
	output(t, exec.Command("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", root))
	t.Cleanup(func() { output(t, exec.Command("umount", root)) })
	output(t, exec.Command("tar", "-C", root, "-xf", packed[0]))
	return root
}

// packaged are what users find in both kinds of package, and zsh's completion where each kind has it.
func packaged(zsh string) []string {
	return []string{
		"etc/mesh-init/config.yaml", "usr/bin/mesh-init", "usr/lib/systemd/system/mesh-init.service",
		"usr/share/bash-completion/completions/mesh-init", "usr/share/doc/mesh-init/THIRD_PARTY",
		"usr/share/doc/mesh-init/copyright", "usr/share/doc/mesh-init/examples/proxy.service",
		"usr/share/fish/vendor_completions.d/mesh-init.fish", "usr/share/man/man8/mesh-init.8.gz",
		"usr/share/zsh/" + zsh + "/_mesh-init",
	}
}

// files are all of ours in a root.
func files(t *testing.T, root string) (paths []string) {
	t.Helper()
	for line := range strings.Lines(output(t, exec.Command("find", root, "-xdev", "-name", "*mesh-init*", "-o",
		"-path", "*/mesh-init/*"))) {
		path := strings.TrimPrefix(strings.TrimSpace(line), root+"/")
		info, err := os.Lstat(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if !info.IsDir() && !strings.HasPrefix(path, "var/lib/dpkg/") {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// TestDeb: apt installs the package on a new machine, it works there, and apt takes it away again.
func TestDeb(t *testing.T) {
	root := machine(t)
	packages, err := filepath.Glob(dist + "/packages/mesh-init_*_amd64.deb")
	if err != nil || len(packages) != 1 {
		t.Fatalf("packages: %q, %v", packages, err)
	}
	output(t, exec.Command("cp", packages[0], root+"/mesh-init.deb"))
	in := func(args ...string) string {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		cmd.Dir = "/"
		return output(t, cmd)
	}
	in("/usr/bin/apt-get", "-qq", "install", "-y", "/mesh-init.deb")
	output(t, exec.Command("rm", root+"/mesh-init.deb"))
	if diff := cmp.Diff(packaged("vendor-completions"), files(t, root)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if got := in("/usr/bin/mesh-init", "version"); !strings.Contains(got, version(t)) {
		t.Errorf("version: %s", got)
	}
	if got := in("/usr/bin/bash", "-c", ". /usr/share/bash-completion/completions/mesh-init && complete -p mesh-init"); !strings.
		Contains(got, "mesh-init") {
		t.Errorf("completion: %q", got)
	}
	unit(t, root)
	in("/usr/bin/apt-get", "-qq", "remove", "-y", "mesh-init")
	if got := files(t, root); len(got) != 1 || got[0] != "etc/mesh-init/config.yaml" {
		t.Errorf("after it was removed: %q", got)
	}
	in("/usr/bin/apt-get", "-qq", "purge", "-y", "mesh-init")
	if got := files(t, root); len(got) > 0 {
		t.Errorf("after it was purged: %q", got)
	}
}

// unit runs the commands of the unit, with the privileges that it has, in a network namespace: the rules are there from its
// start to its stop.
func unit(t *testing.T, root string) {
	t.Helper()
	const path = "usr/lib/systemd/system/mesh-init.service"
	commands := map[string]string{}
	for line := range strings.Lines(read(t, filepath.Join(root, path))) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), "="); found {
			commands[key] = value
		}
	}
	var bounds []string
	for capability := range strings.FieldsSeq(commands["CapabilityBoundingSet"]) {
		bounds = append(bounds, "+"+strings.ToLower(strings.TrimPrefix(capability, "CAP_")))
	}
	lab := netlab.NewT(t, netlab.Options{})
	run := func(command string) (string, int) {
		cmd := exec.Command("chroot", append([]string{root, "setpriv", "--no-new-privs",
			"--bounding-set=-all," + strings.Join(bounds, ",")}, strings.Fields(command)...)...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := lab.Pod.Start(cmd, nil); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		return out.String(), cmd.ProcessState.ExitCode()
	}
	output(t, exec.Command("mount", "-t", "proc", "proc", root+"/proc"))
	defer func() { output(t, exec.Command("umount", root+"/proc")) }()
	for _, step := range []struct {
		command string
		code    int
		says    string
	}{
		{"/usr/bin/mesh-init status", 10, ""},
		{commands["ExecStart"], 0, "created"},
		{"/usr/bin/mesh-init status -o wide", 0, "O12"},
		{commands["ExecReload"], 0, "unchanged"},
		{commands["ExecStop"], 0, "removed"},
		{"/usr/bin/mesh-init status", 10, ""},
	} {
		if out, code := run(step.command); code != step.code || !strings.Contains(out, step.says) {
			t.Errorf("%s: exit code %d, want %d and %q:\n%s", step.command, code, step.code, step.says, out)
		}
	}
}

// TestRPM: rpm installs the package into a root, and takes it away again.
func TestRPM(t *testing.T) {
	netlab.RequireProgram(t, "rpm")
	root := machine(t)
	packages, err := filepath.Glob(dist + "/packages/mesh-init-*.x86_64.rpm")
	if err != nil || len(packages) != 1 {
		t.Fatalf("packages: %q, %v", packages, err)
	}
	// Debian has no packages of rpm's, such as that of /bin/sh.
	output(t, exec.Command("rpm", "--root", root, "--install", "--nodeps", packages[0]))
	if diff := cmp.Diff(packaged("site-functions"), files(t, root)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if got := output(t, exec.Command("chroot", root, "/usr/bin/mesh-init", "version")); !strings.Contains(got, version(t)) {
		t.Errorf("version: %s", got)
	}
	if got := output(t, exec.Command("rpm", "--root", root, "--verify", "mesh-init")); got != "" {
		t.Errorf("verified: %s", got)
	}
	output(t, exec.Command("rpm", "--root", root, "--erase", "mesh-init"))
	if got := files(t, root); len(got) > 0 {
		t.Errorf("after it was erased: %q", got)
	}
}

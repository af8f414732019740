//go:build linux && release

// Package release looks at what make release has written to dist, and runs it.
package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// source is this repository, and dist what is looked at.
const (
	source = "../../.."
	dist   = source + "/dist"
)

// output runs a program and returns what it prints.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", cmd, err, out, &errors)
	}
	return string(out)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; make release writes it", err)
	}
	return string(b)
}

// TestReproducible: who has the same commit in another folder makes the same images.
func TestReproducible(t *testing.T) {
	if changed := output(t, exec.Command("git", "-C", source, "status", "--porcelain")); changed != "" {
		t.Fatalf("what is built again is the last commit, and this is not committed:\n%s", changed)
	}
	folder := filepath.Join(t.TempDir(), "another folder")
	output(t, exec.Command("git", "clone", "-q", "--no-hardlinks", source, folder))
	again := exec.Command("make", "images", "VERSION="+version(t),
		"IMAGE=ghcr.io/mesh-intercept/intercept:"+version(t))
	again.Dir = folder
	output(t, again)
	const digest = "/images/intercept.digest"
	if diff := cmp.Diff(read(t, dist+digest), read(t, filepath.Join(folder, "dist", digest))); diff != "" {
		t.Errorf("the digest of the image:\n%s", diff)
	}
}

// version is that of the programs in dist.
func version(t *testing.T) string {
	t.Helper()
	text := output(t, exec.Command(dist+"/bin/linux_amd64/mesh-init", "version"))
	words := strings.Fields(text)
	if len(words) < 2 {
		t.Fatalf("%q says no version", text)
	}
	return strings.TrimSuffix(words[1], ",")
}

// TestARM64: the programs for arm64, in an emulator, print what those for this machine do.
func TestARM64(t *testing.T) {
	netlab.RequireProgram(t, "qemu-aarch64-static")
	for _, line := range []string{
		"mesh-init version", "mesh-init help", "mesh-init render --dns all", "mesh-init render -o json --inbound-mode tproxy",
		"mesh-init render --backend iptables-legacy", "mesh-init explain --uid 1000 --dst 10.1.2.3:443",
		"mesh-init explain --why-not 10.1.2.3:443", "mesh-init explain --matrix", "mesh-init completion bash",
		"mesh-cni --version", "mesh-cni-agent --version", "mesh-probe --version",
		"mesh-injector --version", "kubectl-intercept --help",
	} {
		words := strings.Fields(line)
		here, there := exec.Command(dist+"/bin/linux_amd64/"+words[0], words[1:]...), exec.Command("qemu-aarch64-static",
			append([]string{dist + "/bin/linux_arm64/" + words[0]}, words[1:]...)...)
		want, wantErr := here.CombinedOutput()
		got, gotErr := there.CombinedOutput()
		if diff := cmp.Diff(string(want), string(got)); diff != "" || here.ProcessState.ExitCode() != there.ProcessState.ExitCode() {
			t.Errorf("%s: %v here and %v there:\n%s", line, wantErr, gotErr, diff)
		}
		if len(want) == 0 {
			t.Errorf("%s prints nothing: %v", line, wantErr)
		}
	}
}

// TestWhole: a release has all that docs/release.md lists, and its sums are right.
func TestWhole(t *testing.T) {
	const out = dist + "/release"
	sums := exec.Command("sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS")
	sums.Dir = out
	output(t, sums)
	listed := map[string]bool{}
	for line := range strings.Lines(read(t, out+"/SHA256SUMS")) {
		listed[strings.Fields(line)[1]] = true
	}
	v := version(t)
	wanted := []string{"intercept-image.tar", "intercept-image.digest", "intercept-darwin-amd64.tar.gz",
		"intercept-darwin-arm64.tar.gz", "intercept-windows-amd64.tar.gz",
		"intercept-chart-" + v + ".tgz"}
	for _, arch := range []string{"amd64", "arm64"} {
		name := "intercept-" + v + "-linux-" + arch
		wanted = append(wanted, name+".tar.gz", name+".spdx.json", "intercept-linux-"+arch+".tar.gz")
		for _, program := range []string{"mesh-init", "mesh-cni-agent", "kubectl-intercept", "THIRD_PARTY", "man/mesh-init.8"} {
			if list := output(t, exec.Command("tar", "-tzf", out+"/"+name+".tar.gz")); !strings.Contains(list, name+"/"+program+"\n") {
				t.Errorf("%s is not in\n%s", program, list)
			}
		}
	}
	for _, name := range wanted {
		if !listed[name] {
			t.Errorf("%s is not in SHA256SUMS", name)
		}
	}
	chart := exec.Command("tar", "-xzOf", out+"/intercept-chart-"+v+".tgz", "intercept/Chart.yaml", "intercept/values.yaml")
	text := output(t, chart)
	for _, want := range []string{"appVersion: " + v + "\n", `repository: "ghcr.io/mesh-intercept/intercept"` + "\n",
		`digest: "` + strings.TrimSpace(read(t, dist+"/images/intercept.digest")) + `"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the chart has no %s:\n%s", want, text)
		}
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	if packages := len(listed) - len(wanted); packages != 4 || len(entries) != len(listed)+1 {
		t.Errorf("%d packages, %d files, of which %d have sums", packages, len(entries), len(listed))
	}
}

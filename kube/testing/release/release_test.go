//go:build linux && release

// Package release looks at what make release has written to dist, and runs it.
package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

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

// TestReproducible: who has the same commit in another folder makes the same release, byte for byte.
func TestReproducible(t *testing.T) {
	if changed := output(t, exec.Command("git", "-C", source, "status", "--porcelain")); changed != "" {
		t.Fatalf("what is built again is the last commit, and this is not committed:\n%s", changed)
	}
	folder := filepath.Join(t.TempDir(), "another folder")
	output(t, exec.Command("git", "clone", "-q", "--no-hardlinks", source, folder))
	again := exec.Command("make", "release", "VERSION="+version(t))
	again.Dir = folder
	output(t, again)
	const sums = "/release/SHA256SUMS"
	if diff := cmp.Diff(read(t, dist+sums), read(t, filepath.Join(folder, "dist", sums))); diff != "" {
		t.Errorf("built here (-) and in another folder (+):\n%s", diff)
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

// TestOthers: for architectures of which a release has no programs, ppc64le, and s390x with its other order of bytes,
// mesh-init is built, and prints in an emulator what it does here.
func TestOthers(t *testing.T) {
	for _, arch := range []string{"ppc64le", "s390x"} {
		netlab.RequireProgram(t, "qemu-"+arch+"-static")
		program := filepath.Join(t.TempDir(), "mesh-init")
		build := exec.Command("go", "build", "-o", program, "./cmd/mesh-init")
		build.Dir = source
		build.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOARCH="+arch)
		output(t, build)
		for _, line := range []string{
			"render --dns all", "render -o json --inbound-mode tproxy", "render --backend iptables-legacy", "render --backend nft",
			"explain --uid 1000 --dst 10.1.2.3:443", "explain --uid 1000 --dst [2001:db8::1]:443", "explain --matrix",
		} {
			want := output(t, exec.Command(dist+"/bin/linux_amd64/mesh-init", strings.Fields(line)...))
			got := output(t, exec.Command("qemu-"+arch+"-static", append([]string{program}, strings.Fields(line)...)...))
			if diff := cmp.Diff(want, got); diff != "" || want == "" {
				t.Errorf("%s for %s:\n%s", line, arch, diff)
			}
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
	wanted := []string{"intercept-darwin-amd64.tar.gz", "intercept-darwin-arm64.tar.gz", "intercept-windows-amd64.tar.gz",
		"intercept-chart-" + v + ".tgz", "intercept-krew.yaml"}
	for _, image := range []string{"intercept", "intercept-iptables", "intercept-debug"} {
		wanted = append(wanted, image+"-image.tar", image+"-image.digest")
	}
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
	krew(t, out, v)
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	if packages := len(listed) - len(wanted); packages != 4 || len(entries) != len(listed)+1 {
		t.Errorf("%d packages, %d files, of which %d have sums", packages, len(entries), len(listed))
	}
}

// krew: the manifest of the plugin names an archive of the release for each system, by its sum, and files that it has.
func krew(t *testing.T, out, version string) {
	t.Helper()
	var manifest struct {
		Metadata struct{ Name string }
		Spec     struct {
			Version   string
			Platforms []struct {
				URI, SHA256, Bin string
				Files            []struct{ From string }
				Selector         struct{ MatchLabels map[string]string }
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, out+"/intercept-krew.yaml")), &manifest); err != nil {
		t.Fatal(err)
	}
	systems := map[string]bool{}
	for _, p := range manifest.Spec.Platforms {
		system := p.Selector.MatchLabels["os"] + "-" + p.Selector.MatchLabels["arch"]
		systems[system] = true
		archive := "intercept-" + system + ".tar.gz"
		if want := "https://github.com/mesh-intercept/intercept/releases/download/" + version + "/" + archive; p.URI != want {
			t.Errorf("%s is at %s, not %s", system, p.URI, want)
		}
		if got := output(t, exec.Command("sha256sum", out+"/"+archive)); !strings.HasPrefix(got, p.SHA256+" ") {
			t.Errorf("the sum of %s is %q, and the manifest has %s", archive, got, p.SHA256)
		}
		files := strings.Fields(output(t, exec.Command("tar", "-tzf", out+"/"+archive)))
		for _, f := range p.Files {
			if !slices.Contains(files, f.From) {
				t.Errorf("%s has no %s, but %q", archive, f.From, files)
			}
		}
		if !slices.Contains(files, p.Bin) {
			t.Errorf("%s has no %s, but %q", archive, p.Bin, files)
		}
	}
	if len(systems) != 5 || !strings.HasPrefix(manifest.Spec.Version, "v") || manifest.Metadata.Name != "intercept" {
		t.Errorf("%s %s for %v", manifest.Metadata.Name, manifest.Spec.Version, systems)
	}
}

package version

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestOf holds which of the two that can say the version does.
func TestOf(t *testing.T) {
	commit := []debug.BuildSetting{{Key: "vcs.revision", Value: "0f1e2d3c"}, {Key: "vcs.modified", Value: "true"}}
	for _, tc := range []struct {
		stamped string
		info    debug.BuildInfo
		want    Info
		text    string
	}{
		{"", debug.BuildInfo{}, Info{"unknown", "unknown", false, ""}, "unknown, GO"},
		{"", debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}}, Info{"v1.2.3", "unknown", false, ""}, "v1.2.3, GO"},
		{"v1.2.4", debug.BuildInfo{Main: debug.Module{Version: "(devel)"}, Settings: commit},
			Info{"v1.2.4", "0f1e2d3c", true, ""}, "v1.2.4, revision 0f1e2d3c, modified, GO"},
	} {
		tc.want.Go = runtime.Version()
		got := of(tc.stamped, &tc.info)
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Error(diff)
		}
		if text := strings.ReplaceAll(got.String(), runtime.Version(), "GO"); text != tc.text {
			t.Errorf("%q, want %q", text, tc.text)
		}
	}
}

// TestStamp holds that what make build passes to the linker arrives.
func TestStamp(t *testing.T) {
	const variable = "/internal/version.stamped="
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(makefile), "-X $(MODULE)"+variable+"$(VERSION)") {
		t.Error("the Makefile stamps something else")
	}
	program := filepath.Join(t.TempDir(), "mesh-init")
	build := exec.Command("go", "build", "-ldflags", "-X github.com/mesh-intercept/intercept"+variable+"v9.8.7",
		"-o", program, "../../cmd/mesh-init")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(program, "--version").Output()
	if err != nil || !strings.HasPrefix(string(out), "mesh-init v9.8.7, ") {
		t.Errorf("%q, %v", out, err)
	}
}

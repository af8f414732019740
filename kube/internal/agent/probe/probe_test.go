package probe

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

func TestAdd(t *testing.T) {
	netlab.Require(t)
	dir := t.TempDir()
	plugin := filepath.Join(dir, "mesh-cni")
	if err := program.Build(plugin, "cmd/mesh-cni"); err != nil {
		t.Fatal(err)
	}
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tt := range map[string]struct{ plugin, entry, want string }{
		"works": {plugin, `{"type":"mesh-cni"}`, ""},
		"works with DNS": {
			plugin, `{"type":"mesh-cni","annotationPrefix":"mesh.example","defaults":{"dns":{"mode":"resolvconf"}}}`, ""},
		"bad entry":    {plugin, `{"type":"mesh-cni","backend":"ebpf"}`, `"ebpf" is not one of`},
		"does nothing": {script("nothing", "exit 0"), `{"type":"mesh-cni"}`, "rules are not in force"},
		"fails": {script("fails", `echo '{"code":100,"msg":"no","details":"why"}'; exit 1`),
			`{"type":"mesh-cni"}`, "fails failed: no: why"},
		"dies":               {script("dies", `echo oops >&2; exit 3`), `{"type":"mesh-cni"}`, "exit status 3 oops"},
		"is not there":       {filepath.Join(dir, "gone"), `{"type":"mesh-cni"}`, "no such file"},
		"cannot be executed": {filepath.Join(dir), `{"type":"mesh-cni"}`, "permission denied"},
	} {
		t.Run(name, func(t *testing.T) {
			before := fds(t)
			err := Add(t.Context(), tt.plugin, []byte(tt.entry))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v; want %q", err, tt.want)
			}
			if after := fds(t); after != before {
				t.Errorf("%d files open, then %d", before, after)
			}
		})
	}
}

// fds counts the network namespaces that the process holds open.
func fds(t *testing.T) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "net:") {
			n++
		}
	}
	return n
}

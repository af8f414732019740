//go:build linux

package main

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mesh-intercept/intercept/internal/cli"
)

// TestFIFO: nobody is waited for at a file that is named.
func TestFIFO(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, tt := range map[string]struct{ args, env []string }{
		"--config: " + fifo + ": a FIFO that nobody writes into":    {[]string{"--config", fifo}, nil},
		"MESH_CONFIG: " + fifo + ": a FIFO that nobody writes into": {nil, []string{"MESH_CONFIG=" + fifo}},
		"--config: /dev/zero: not a regular file: it is a device":   {[]string{"--config", "/dev/zero"}, nil},
		"--resolv-conf: " + fifo + ": a FIFO that nobody writes into; name the servers": {
			[]string{"--dns=resolvconf", "--resolv-conf", fifo}, nil},
	} {
		r := invoke(t, "", tt.env, append([]string{"apply"}, tt.args...)...)
		if r.code != cli.ExitUsage || !strings.HasPrefix(r.stderr, "mesh-init: "+want) {
			t.Errorf("exit code %d, %s; want %s", r.code, r.stderr, want)
		}
	}
}

package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mesh-intercept/intercept/internal/cli"
)

// TestFIFO: nobody is waited for at a file or a directory that is named.
func TestFIFO(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, tt := range map[string]struct {
		args []string
		code int
	}{
		"--plugin-conf " + fifo + ": " + fifo + ": not a regular file: it is a FIFO": {
			[]string{"--plugin-conf", fifo}, cli.ExitUsage},
		"open " + fifo + ": not a directory": {
			[]string{"--cni-conf-dir", fifo, "--cni-bin-dir", dir, "--socket", dir + "/s"}, exitIll},
	} {
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"doctor"}, tt.args...), nil, &out, &out)
		if code != tt.code || !strings.Contains(strings.Join(strings.Fields(out.String()), " "), want) {
			t.Errorf("%v: exit code %d, %s; want %s", tt.args, code, out.String(), want)
		}
	}
}

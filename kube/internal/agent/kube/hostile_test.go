package kube

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept/internal/infile"
	"github.com/mesh-intercept/intercept/kube/testing/kubeapi"
)

// TestNote: an event is a line that moves no cursor, whatever a pod's annotations
// made of it.
func TestNote(t *testing.T) {
	e := Event{Note: "annotation a/b: \x1b[2J\u009b\u202e\n" + strings.Repeat("x", 2000)}
	const want = `annotation a/b: \x1b[2J\u009b\u202e\n` + "x"
	if got := e.object(node, time.Now()).Note; !strings.HasPrefix(got, want) || len(got) > 1024 {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

// TestCredentialsAreFIFOs: nobody is waited for.
func TestCredentialsAreFIFOs(t *testing.T) {
	s := kubeapi.New(t, kubeapi.Options{})
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, a := range []Access{
		{Server: s.URL, TokenFile: fifo, CAFile: s.CAFile},
		{Server: s.URL, TokenFile: s.TokenFile, CAFile: fifo},
	} {
		if _, err := NewClient(a); !errors.Is(err, infile.ErrKind) {
			t.Errorf("%+v: %v", a, err)
		}
	}
}

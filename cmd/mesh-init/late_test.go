package main

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
)

// signalled is a writer that tells of the first write.
type signalled struct {
	strings.Builder
	once    sync.Once
	written chan struct{}
}

func (s *signalled) Write(text []byte) (int, error) {
	defer s.once.Do(func() { close(s.written) })
	return s.Builder.Write(text)
}

// patient is a plane whose Apply goes on once something was written.
type patient struct {
	fakePlane
	t       *testing.T
	written chan struct{}
}

func (w patient) Apply(ctx context.Context, c intercept.Config) (dataplane.Result, error) {
	select {
	case <-w.written:
	case <-time.After(30 * time.Second):
		w.t.Error("the warning is held back for as long as the run waits")
	}
	return w.fakePlane.Apply(ctx, c)
}

// TestWarningsDoNotWaitForLong: what a run that takes long has to say is read meanwhile, and of one that is killed, too.
func TestWarningsDoNotWaitForLong(t *testing.T) {
	stderr := &signalled{written: make(chan struct{})}
	p := patient{t: t, written: stderr.written}
	p.live, p.result.Outcome = changed(), intercept.Created
	var out strings.Builder
	prog := program{strings.NewReader(""), &out, stderr, func(dataplane.Pod) plane { return p }}
	code := prog.run(t.Context(), []string{"apply", "--live", "--backend", "auto"}, []string{"MESH_OUTBOUND_EXCLUDE_PORTS=80"})
	if code != 0 || !strings.HasPrefix(out.String(), "created") || strings.Count(stderr.String(), "level=WARN") != 1 {
		t.Errorf("%d, %q, %q", code, out.String(), stderr.String())
	}
}

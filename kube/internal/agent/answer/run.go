package answer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/kube/internal/agent/repair"
	"github.com/mesh-intercept/intercept/kube/internal/answers"
)

// maxOutput is how much of what mesh-init prints is kept, in bytes.
const maxOutput = 4 << 20

// run runs mesh-init in a process of its own: that has what a verb says, and if something goes wrong in a pod's
// namespace, it is that process's end and not the agent's.
func (s Server) run(ctx context.Context, v answers.Verb, args []string, in repair.Sandbox, config *intercept.Config,
	stdout, stderr io.Writer) (exit int, err error) {
	cmd := exec.CommandContext(ctx, s.Program)
	if v.Name != "explain" {
		netns, err := os.Open(in.NetNS())
		if err != nil {
			return 0, err
		}
		defer netns.Close()
		cmd.ExtraFiles = []*os.File{netns}
		args = append(args, "--netns=/proc/self/fd/3") // the first of ExtraFiles
	}
	if v.Configured && v.Name != "explain" && s.Repairer.Conf.Backend != "" {
		args = append(args, "--backend="+string(s.Repairer.Conf.Backend))
	}
	if v.Configured && config != nil {
		text, err := json.Marshal(config)
		if err != nil {
			return 0, err
		}
		cmd.Stdin = bytes.NewReader(text)
		args = append(args, "--config=-")
	}
	cmd.Args = append(cmd.Args, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "NO_COLOR=1"} // others would be a configuration
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// It takes back what it has begun.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	_, ended := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("mesh-init %s: not done in time: %w", v.Name, ctx.Err())
	case err != nil && !ended:
		return 0, fmt.Errorf("mesh-init %s: %w", v.Name, err)
	}
	return cmd.ProcessState.ExitCode(), nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ bytes.Buffer }

// Write implements [io.Writer].
func (l *limited) Write(p []byte) (int, error) {
	l.Buffer.Write(p[:min(len(p), max(0, maxOutput-l.Len()))])
	return len(p), nil
}

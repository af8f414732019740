package iptables

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"time"
)

// process is a program that was started. Its input and output are files in memory: no goroutine copies them, no size of
// either can block, and several can run at once without a thread for each.
type process struct {
	name                  string
	cmd                   *exec.Cmd
	input                 string
	stdin, stdout, stderr *os.File
	err                   error // of the start
}

// run runs a program in the namespace of the calling thread and returns what it prints.
func (c command) run(ctx context.Context, input string, env []string, extra []*os.File, args ...string) (string,
	error) {
	p, err := c.start(ctx, input, env, extra, args...)
	if err != nil {
		return "", err
	}
	return p.finish(ctx)
}

// start starts a program in the namespace of the calling thread. It is killed when ctx ends, with all that it has
// started. The child has the files extra as its descriptors 3 and up. A nil env is this process's.
func (c command) start(ctx context.Context, input string, env []string, extra []*os.File, args ...string) (*process,
	error) {
	p := &process{name: c[len(c)-1], input: input}
	for _, f := range []struct {
		file          **os.File
		name, content string
	}{{&p.stdin, "input", input}, {&p.stdout, "output", ""}, {&p.stderr, "errors", ""}} {
		var err error
		if *f.file, err = memory(f.name, f.content); err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	p.cmd = exec.CommandContext(ctx, c[0], append(c[1:len(c):len(c)], args...)...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = p.stdin, p.stdout, p.stderr
	p.cmd.Env, p.cmd.ExtraFiles = env, extra
	inGroup(p.cmd)
	p.cmd.WaitDelay = time.Second
	p.err = p.cmd.Start()
	return p, nil
}

// finish waits for the program and returns what it has printed. The context is that of the start. If it has ended, its
// error is the reason of the refusal.
func (p *process) finish(ctx context.Context) (stdout string, err error) {
	defer func() { _ = p.close() }() // in memory
	runErr := p.err
	if runErr == nil {
		runErr = p.cmd.Wait()
	}
	text, err := contents(p.stdout)
	if err != nil || runErr == nil {
		return text, err
	}
	if ended := ctx.Err(); ended != nil {
		runErr = ended
	}
	said, err := contents(p.stderr)
	if err != nil {
		return "", err
	}
	return text, newProgramError(p.name, runErr, said, p.input)
}

func (p *process) close() error {
	var errs []error
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

func contents(f *os.File) (string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	b, err := io.ReadAll(f)
	return string(b), err
}

//go:build linux

// Package fresh_test tests the scripts by which the project comes to run on a
// new machine: testing/fresh/run makes one, testing/deps installs what is
// missing there. That both work with a real Debian, continuous integration
// shows; here are what goes wrong, and what is left when it does.
package fresh_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// result is how a script ended.
type result struct {
	code        int
	out, errors string
}

func run(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), complaints.String()}
}

// want checks how a script ended, and that it says some words of that.
func (r result) want(t *testing.T, name string, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("%s: exit code %d, want %d", name, r.code, code)
	}
	for _, w := range words {
		if !strings.Contains(r.out+r.errors, w) {
			t.Errorf("%s: it does not say %q", name, w)
		}
	}
	if t.Failed() {
		t.Fatalf("%s: it said\n%s%s", name, r.out, r.errors)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func script(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
}

// small is a directory with the least that a machine needs: a few programs of
// this one, and their libraries.
func small(t *testing.T) string {
	t.Helper()
	netlab.RequireProgram(t, "ldd")
	dir := t.TempDir()
	for _, sub := range []string{"etc/apt/apt.conf.d", "etc/ssl/certs", "proc", "sys", "dev", "run", "root", "usr/local"} {
		must(t, os.MkdirAll(filepath.Join(dir, sub), 0o755))
	}
	for _, program := range []string{"/usr/bin/env", "/bin/bash", "/bin/umount", "/bin/rmdir", "/bin/cat", "/bin/ls"} {
		list, err := exec.Command("ldd", program).Output()
		must(t, err)
		for word := range strings.FieldsSeq(program + " " + string(list)) {
			if !filepath.IsAbs(word) {
				continue
			}
			b, err := os.ReadFile(word)
			path := filepath.Join(dir, word)
			must(t, err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o755))
		}
	}
	return dir
}

// machine is the script run with a cache of its own, which has a small machine.
func machine(t *testing.T, command ...string) (cmd *exec.Cmd, cache string) {
	t.Helper()
	netlab.Require(t)
	cache = t.TempDir()
	cmd = exec.Command("./run", command...)
	cmd.Env = append(os.Environ(), "FRESH_CACHE="+cache, "FRESH_SUITE=small")
	return cmd, cache
}

func withBase(t *testing.T, cache string) {
	t.Helper()
	out, err := exec.Command("dpkg", "--print-architecture").Output()
	if err != nil {
		out, err = exec.Command("uname", "-m").Output()
	}
	must(t, err)
	base := filepath.Join(cache, "small-"+strings.TrimSpace(string(out))+".tar")
	must(t, exec.Command("tar", "-C", small(t), "-cf", base, ".").Run())
}

// TestRun: the command runs in a clone on the new machine, which has nothing
// of this one's programs, and its exit code is the script's.
func TestRun(t *testing.T) {
	cmd, cache := machine(t, "bash", "-c", `pwd; ls /usr/bin | cat; ls Makefile; exit 7`)
	withBase(t, cache)
	r := run(t, cmd)
	r.want(t, "a command that fails", 7)
	if want := "/root/intercept\nenv\nMakefile\n"; r.out != want {
		t.Errorf("it printed %q, want %q\n%s", r.out, want, r.errors)
	}
	left(t, cache)
	cmd = exec.Command("./run", "bash", "-c", `kill -INT $$; echo "it ignores SIGINT"`)
	cmd.Env = append(os.Environ(), "FRESH_CACHE="+cache, "FRESH_SUITE=small")
	run(t, cmd).want(t, "a command that is interrupted", 130)
}

// left checks that nothing of a machine is left: no mount, no file.
func left(t *testing.T, cache string) {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(cache, "root"))
	must(t, err)
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	if len(files) > 0 || strings.Contains(string(mounts), cache) {
		t.Errorf("%v are left, and the mounts\n%s", files, mounts)
	}
}

// TestKilled: however the script ends, all that runs on the machine ends with it.
func TestKilled(t *testing.T) {
	// A shell cannot trap what it was started to ignore, as under nohup. What is caught here is not ignored by children.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGHUP)
	defer signal.Stop(caught)
	for name, signal := range map[string]syscall.Signal{
		"interrupted": unix.SIGINT, "terminated": unix.SIGTERM, "hung up": unix.SIGHUP, "killed": unix.SIGKILL,
	} {
		t.Run(name, func(t *testing.T) {
			cmd, cache := machine(t, "bash", "-c", `trap "" INT TERM HUP; { echo runs; cat; } & wait; cat`)
			withBase(t, cache)
			input, theirs, err := os.Pipe() // with no end
			must(t, err)
			defer input.Close()
			defer theirs.Close()
			cmd.Stdin, cmd.Stderr = input, os.Stderr
			output, err := cmd.StdoutPipe()
			must(t, err, cmd.Start())
			reader := bufio.NewReader(output)
			if line, err := reader.ReadString('\n'); line != "runs\n" {
				t.Fatalf("%q, %v", line, err)
			}
			ended := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill(); output.Close() })
			must(t, cmd.Process.Signal(signal))
			// The end of the output is the end of all that could write to it.
			if _, err := io.ReadAll(reader); err != nil || !ended.Stop() {
				t.Errorf("it goes on: %v", err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("the script says that it succeeded")
			}
			left(t, cache)
		})
	}
}

// TestBase: a machine is made by debootstrap once. What it leaves half made is
// not used, and what it says is shown.
func TestBase(t *testing.T) {
	whole, programs := small(t), t.TempDir()
	command := func(cache string) *exec.Cmd {
		cmd := exec.Command("./run", "bash", "-c", "echo it runs")
		cmd.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"),
			"FRESH_CACHE="+cache, "FRESH_SUITE=small", "FRESH_MIRROR=http://192.0.2.1/debian")
		return cmd
	}
	_, cache := machine(t)
	// Its third argument is the suite, then come the directory and the mirror.
	half := `cp -a ` + whole + `/etc "$4"; `
	script(t, programs+"/debootstrap", half+`echo "E: no $3 at $5"; exit 1`)
	run(t, command(cache)).want(t, "debootstrap fails", 125, "E: no small at http://192.0.2.1/debian",
		"no small can be made")

	fifo := filepath.Join(programs, "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	script(t, programs+"/debootstrap", half+`echo half >`+fifo+`; exec sleep 1000`)
	killed := command(cache)
	must(t, killed.Start())
	if b, err := os.ReadFile(fifo); string(b) != "half\n" {
		t.Errorf("%q, %v", b, err)
	}
	must(t, killed.Process.Kill())
	_ = killed.Wait()

	script(t, programs+"/debootstrap", `cp -a `+whole+`/. "$4"`)
	run(t, command(cache)).want(t, "it succeeds", 0, "it runs")
	script(t, programs+"/debootstrap", `echo "E: not again"; exit 1`)
	run(t, command(cache)).want(t, "the next time", 0, "it runs")
	left(t, cache)
}

// TestRunRefuses: what is missing is said, with what to do.
func TestRunRefuses(t *testing.T) {
	cmd, cache := machine(t)
	run(t, cmd).want(t, "no command", 125, "use: testing/fresh/run COMMAND")
	// This directory may be closed to other users.
	b, err := os.ReadFile("run")
	must(t, err)
	cmd = exec.CommandContext(t.Context(), "bash", "-s", "true")
	cmd.Stdin, cmd.Dir = bytes.NewReader(b), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	run(t, cmd).want(t, "no root", 125, `sudo env "PATH=$PATH" testing/fresh/run`)
	withBase(t, cache)
	must(t, os.Truncate(firstFile(t, cache, "*.tar"), 1000))
	cmd = exec.CommandContext(t.Context(), "./run", "true")
	cmd.Env = append(os.Environ(), "FRESH_CACHE="+cache, "FRESH_SUITE=small")
	run(t, cmd).want(t, "no machine", 125)
}

func firstFile(t *testing.T, dir, pattern string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s: %v", pattern, err)
	}
	return files[0]
}

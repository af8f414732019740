//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a bash at a terminal, which completes what is typed.
type terminal struct {
	t    *testing.T
	tt   *os.File
	seen *bytes.Buffer // what has been read and not yet been looked for
}

func newTerminal(t *testing.T, path string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	bash := exec.Command("bash", "--noprofile", "--norc", "-i")
	bash.Env = []string{"PATH=" + path + ":" + os.Getenv("PATH"), "TERM=dumb", "PS1=ready> "}
	bash.Stdin, bash.Stdout, bash.Stderr = slave, slave, slave
	bash.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := bash.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bash.Process.Kill(); _ = bash.Wait() })
	return &terminal{t, master, new(bytes.Buffer)}
}

// until reads until the terminal has shown a text, and returns what is before it.
func (tt *terminal) until(text string) string {
	tt.t.Helper()
	if err := tt.tt.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		tt.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		if before, after, found := strings.Cut(tt.seen.String(), text); found {
			tt.seen = bytes.NewBufferString(after)
			return before
		}
		n, err := tt.tt.Read(buf)
		tt.seen.Write(buf[:n])
		if err != nil {
			tt.t.Fatalf("%v before %q: %q", err, text, tt.seen)
		}
	}
}

func (tt *terminal) write(text string) {
	tt.t.Helper()
	if _, err := tt.tt.WriteString(text); err != nil {
		tt.t.Fatal(err)
	}
}

// TestCompletionAtATerminal types into bash, as people do.
func TestCompletionAtATerminal(t *testing.T) {
	tt := newTerminal(t, filepath.Dir(built(t)))
	tt.until("ready> ")
	// Control-X shows the line as it stands. The mark is written in two parts, so
	// that the terminal's echo is none.
	tt.write("source <(mesh-init completion bash)\n")
	tt.write(`bind -x '"\C-x": printf "[[%s]]" "$READLINE_LINE"'; echo set'' up` + "\n")
	tt.until("set up")
	for typed, want := range map[string]string{
		"mesh-init ren\t":                               "mesh-init render ",
		"mesh-init status --net\t":                      "mesh-init status --netns ",
		"mesh-init apply --dns=r\t":                     "mesh-init apply --dns=resolvconf ",
		"mesh-init apply --outbound-exclude :53 -o y\t": "mesh-init apply --outbound-exclude :53 -o yaml ",
		"mesh-init apply --backend iptables-l\t":        "mesh-init apply --backend iptables-legacy ",
		"mesh-init apply --config /etc/resolv.c\t":      "mesh-init apply --config /etc/resolv.conf ",
		"mesh-init nonsense --o\t":                      "mesh-init nonsense --o",
	} {
		tt.write(typed + "\x18")
		tt.until("[[")
		if got := tt.until("]]"); got != want {
			t.Errorf("%q became %q, want %q", typed, got, want)
		}
		tt.write("\x15") // Control-U clears the line
	}
}

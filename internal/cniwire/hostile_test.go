//go:build linux

package cniwire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// as runs fn on a thread of another user, which then ends.
func as(t *testing.T, uid int, fn func()) {
	t.Helper()
	done := make(chan syscall.Errno)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		// By the package it would be for all threads.
		const same = ^uintptr(0)
		_, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, same, uintptr(uid), same)
		if errno == 0 {
			fn()
		}
		done <- errno
	}()
	if errno := <-done; errno != 0 {
		t.Fatal(errno)
	}
}

// nobody is a user without any right.
const nobody = 65534

// connect connects on the calling thread.
func connect(socket string) (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}); err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), socket), nil
}

// open is a path that every user can come to.
func open(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mesh-cniwire")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "agent.sock")
}

// TestStrangers: another user cannot connect; and where the file's mode or a
// descriptor handed over lets it, it is asked nothing and told nothing.
func TestStrangers(t *testing.T) {
	netlab.Require(t)
	socket := open(t)
	serveAt(t, socket, Server{
		Ready: func() error { t.Error("asked"); return nil },
		Pod:   func(context.Context, Pod) (Facts, error) { t.Error("asked"); return Facts{}, nil },
		Log:   func(Record, json.RawMessage) { t.Error("a record") },
	})
	as(t, nobody, func() {
		if f, err := connect(socket); !errors.Is(err, syscall.EACCES) {
			t.Errorf("another user connects: %v, %v", f, err)
		}
	})
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{
		`{"version":1,"op":"pod","pod":{"namespace":"a","name":"b"}}`, `{"version":1,"op":"ping"}`,
		`{"version":1,"op":"log","record":{"msg":"x"}}`, ""} {
		as(t, nobody, func() {
			f, err := connect(socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			f.WriteString(says + "\n") // it may be closed already
			b := make([]byte, 1000)
			n, _ := f.Read(b) // reset, if what was written was not read
			if n > 0 && !strings.Contains(string(b[:n]), "another user's: user 65534's, and not root's") {
				t.Errorf("%s: %q", says, b[:n])
			}
		})
	}
}

// TestStrangeAgent: what another user listens at in place of the agent is told
// nothing and believed nothing.
func TestStrangeAgent(t *testing.T) {
	netlab.Require(t)
	socket := open(t)
	if err := os.Chmod(filepath.Dir(socket), 0o777); err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	as(t, nobody, func() {
		var err error
		if l, err = net.Listen("unix", socket); err != nil {
			t.Error(err)
		}
	})
	defer l.Close()
	heard := make(chan string, 10)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				close(heard)
				return
			}
			io.WriteString(conn, `{"version":1,"found":true}`+"\n")
			b, _ := io.ReadAll(conn)
			heard <- string(b)
			conn.Close()
		}
	}()
	if facts, err := Ask(within(t, time.Minute), socket, Pod{Namespace: "a", Name: "b"}); !errors.Is(err, ErrStranger) ||
		facts.Found {
		t.Errorf("asked: %+v, %v", facts, err)
	}
	if err := Send(socket, []byte(`{"msg":"secret"}`)); !errors.Is(err, ErrStranger) {
		t.Errorf("told: %v", err)
	}
	for range 2 {
		if text := <-heard; text != "" {
			t.Errorf("it has heard %q", text)
		}
	}
}

// TestMode: nobody but the owner can ever connect, whatever the umask, and the
// socket is in no directory where others could put theirs in its place.
func TestMode(t *testing.T) {
	before := syscall.Umask(0)
	defer syscall.Umask(before)
	path := filepath.Join(t.TempDir(), "s")
	lc := net.ListenConfig{Control: private}
	l, err := lc.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode when it is made: %v, %v", info.Mode(), err)
	}
	dir := filepath.Join(t.TempDir(), "everybodys")
	if err := os.Mkdir(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(dir, "s")); err == nil || !strings.Contains(err.Error(), "everybody can replace") {
		t.Errorf("a directory that everybody can write to: %v", err)
	}
}

// TestFlood: many who say nothing hold up nobody who says what it wants.
func TestFlood(t *testing.T) {
	socket := serve(t, Server{Ready: ready, Parallel: 4, Timeout: time.Hour, Hurry: 10 * time.Millisecond})
	var flood []net.Conn
	defer func() {
		for _, conn := range flood {
			conn.Close()
		}
	}()
	for range 100 {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		flood = append(flood, conn)
	}
	if err := Ping(within(t, time.Minute), socket); err != nil {
		t.Error(err)
	}
	// Where there is room, one may take its time.
	calm := serve(t, Server{Ready: ready, Parallel: 4, Timeout: time.Hour, Hurry: time.Nanosecond})
	conn, err := net.Dial("unix", calm)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 10 {
		if err := Ping(within(t, time.Minute), calm); err != nil {
			t.Error(err)
		}
	}
	io.WriteString(conn, `{"version":1,"op":"ping"}`+"\n")
	if b, err := io.ReadAll(conn); err != nil || string(b) != `{"version":1}`+"\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestStall: who begins and does not go on, does not take the answer, or has gone
// while it waits, keeps no place.
func TestStall(t *testing.T) {
	waits, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	big := Facts{Found: true, Annotations: map[string]string{"a/b": strings.Repeat("x", MaxMessage/2)}}
	socket := serve(t, Server{Ready: ready, Parallel: 1, Timeout: 50 * time.Millisecond,
		Pod: func(ctx context.Context, p Pod) (Facts, error) {
			if p.Name == "late" {
				waits <- struct{}{}
				<-ctx.Done()
				gone <- struct{}{}
			}
			return big, nil
		}})
	for name, says := range map[string]string{
		"half a message":     `{"version":1,"op":"pi`,
		"an answer not read": `{"version":1,"op":"pod","pod":{"namespace":"a","name":"b"}}` + "\n",
	} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, says)
		if err := Ping(within(t, time.Minute), socket); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, `{"version":1,"op":"pod","pod":{"namespace":"a","name":"late"},"wait":60000}`+"\n")
	<-waits
	conn.Close()
	<-gone
	if err := Ping(within(t, time.Minute), socket); err != nil {
		t.Error(err)
	}
	// Nor is anybody waited for longer than a plugin could.
	long := Request{Version: Version, Op: OpPod, Pod: Pod{Namespace: "a", Name: "b"}, Wait: 60_001}
	if err := long.Validate(); err == nil {
		t.Error("a wait of more than a minute")
	}
}

// TestTooMuch: what is too long is read as far as a message can be long.
func TestTooMuch(t *testing.T) {
	socket := serve(t, Server{Ready: ready, Timeout: time.Hour})
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(conn, zeros{}) // until it is closed at the other end
		sent <- n
	}()
	line := make([]byte, 1000)
	n, _ := conn.Read(line) // reset, if it was written to meanwhile
	if n > 0 && !strings.Contains(string(line[:n]), "malformed message: it is over 65536 bytes") {
		t.Errorf("%q", line[:n])
	}
	// The socket's buffers take what is not read.
	if n := <-sent; n > 64*MaxRequest {
		t.Errorf("%d bytes were taken", n)
	}
	if err := Send(socket, []byte(`"`+strings.Repeat("x", MaxRequest)+`"`)); err == nil {
		t.Error("a record that the agent would not read")
	}
	if err := Ping(within(t, time.Minute), socket); err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// FuzzAnswer holds that no bytes from who listens at the agent's socket make a panic,
// and that what is read of them can be written again.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"version":1,"found":true,"annotations":{"a/b":"c"},"runtimeClass":"runc"}` + "\n"))
	f.Add([]byte(`{"version":1,"error":"x"}`))
	f.Add([]byte("{\"annotations\":{\"\\ud800\":null}}\n{"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var answer, again Answer
		if readMessage(bytes.NewReader(b), &answer) != nil {
			return
		}
		var out bytes.Buffer
		if err := writeMessage(&out, answer); err != nil {
			t.Fatal(err)
		}
		if err := readMessage(&out, &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(answer, again, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}

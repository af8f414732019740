package cniwire

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serve runs a server until the test is over, and returns its socket.
func serve(t *testing.T, s Server) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent", "agent.sock")
	t.Cleanup(func() { // after the server's
		if _, err := os.Lstat(socket); err == nil {
			t.Error("the socket is still there")
		}
	})
	serveAt(t, socket, s)
	return socket
}

// serveAt is serve at a path.
func serveAt(t *testing.T, socket string, s Server) {
	t.Helper()
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func ready() error { return nil }

func TestExchange(t *testing.T) {
	records := make(chan Record, 1)
	var mu sync.Mutex
	var notReady error
	facts := Facts{Found: true, Annotations: map[string]string{"a/b": "\u2028\n\"<&>"}, RuntimeClass: "kata",
		HostNetwork: true, InitContainer: true}
	socket := serve(t, Server{
		Ready: func() error { mu.Lock(); defer mu.Unlock(); return notReady },
		Pod: func(ctx context.Context, p Pod) (Facts, error) {
			switch p.Name {
			case "late":
				<-ctx.Done()
				return Facts{}, nil
			case "bad":
				return Facts{}, errors.New("no such thing")
			}
			if p.UID != "u" || p.ContainerID != "c" || p.Namespace != "ns" {
				t.Errorf("asked about %+v", p)
			}
			return facts, nil
		},
		Log: func(r Record, raw json.RawMessage) { records <- r },
	})
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode: %v, %v", info, err)
	}
	pod := Pod{"ns", "web", "u", "c"}
	got, err := Ask(within(t, 5*time.Second), socket, pod)
	if err != nil || cmp.Diff(facts, got) != "" {
		t.Errorf("%v, %s", err, cmp.Diff(facts, got))
	}
	if got, err = AskNow(within(t, 5*time.Second), socket, pod); err != nil || !got.Found {
		t.Errorf("%v, %v", got, err)
	}
	if err := Ping(within(t, 5*time.Second), socket); err != nil {
		t.Error(err)
	}
	pod.Name = "late"
	if got, err := Ask(within(t, time.Second), socket, pod); err != nil || got.Found {
		t.Errorf("a pod that does not come: %v, %v", got, err)
	}
	pod.Name = "bad"
	if _, err := Ask(within(t, 5*time.Second), socket, pod); !errors.Is(err, ErrRefused) ||
		!strings.Contains(err.Error(), "no such thing") {
		t.Error(err)
	}
	if err := Send(socket, []byte(`{"msg":"m","result":"ok","seconds":0.5,"more":1}`)); err != nil {
		t.Error(err)
	}
	if r := <-records; r.Message != "m" || r.Result != ResultOK || r.Seconds != 0.5 {
		t.Errorf("%+v", r)
	}
	mu.Lock()
	notReady = errors.New("still listing")
	mu.Unlock()
	if err := Ping(within(t, 5*time.Second), socket); !errors.Is(err, ErrRefused) ||
		!strings.Contains(err.Error(), "not ready: still listing") {
		t.Error(err)
	}
}

// TestNoAnswer: whatever is at the other end, the plugin learns it in time.
func TestNoAnswer(t *testing.T) {
	dir := t.TempDir()
	pod := Pod{Namespace: "ns", Name: "web"}
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, path := range []string{stale, filepath.Join(dir, "missing"), dir} {
		if _, err := Ask(within(t, 5*time.Second), path, pod); !errors.Is(err, ErrNoAgent) ||
			!strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
		if err := Send(path, []byte("{}")); !errors.Is(err, ErrNoAgent) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for name, tt := range map[string]struct {
		says string
		want error
	}{
		"silent":   {"", ErrSlow},
		"garbage":  {"\x00\xff\n", ErrGarbled},
		"no JSON":  {"hello\n", ErrGarbled},
		"a list":   {"[]\n", ErrGarbled},
		"cut off":  {`{"version":1`, ErrGarbled},
		"too long": {`{"version":1,"error":"` + strings.Repeat("x", MaxMessage) + `"}` + "\n", ErrGarbled},
		"newer":    {`{"version":2}` + "\n", ErrGarbled},
		"a type":   {`{"version":"1"}` + "\n", ErrGarbled},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", ""))
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var wg sync.WaitGroup
			defer wg.Wait()
			over := make(chan struct{})
			defer close(over)
			wg.Go(func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				io.WriteString(conn, tt.says)
				if tt.says == "" {
					<-over
				}
			})
			begun := time.Now()
			limit := 5 * time.Second
			if errors.Is(tt.want, ErrSlow) {
				limit = 50 * time.Millisecond
			}
			if _, err := Ask(within(t, limit), path, pod); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if d := time.Since(begun); d > limit+time.Second {
				t.Errorf("it took %v", d)
			}
		})
	}
	if _, err := Ask(within(t, time.Second), stale, Pod{}); err == nil ||
		!strings.Contains(err.Error(), "namespace and name") {
		t.Error(err)
	}
}

// TestBadRequests: what a server is sent gets an answer that says what is
// wrong, or none.
func TestBadRequests(t *testing.T) {
	socket := serve(t, Server{Ready: ready, Timeout: 100 * time.Millisecond,
		Pod: func(context.Context, Pod) (Facts, error) { return Facts{}, nil },
		Log: func(Record, json.RawMessage) { t.Error("a record") },
	})
	for text, want := range map[string]string{
		`{"version":2,"op":"ping"}`:                   "version 2 is not spoken here",
		`{"version":1,"op":"dance"}`:                  `op "dance" is not one of`,
		`{"version":1}`:                               `op "" is not one of`,
		`{"version":1,"op":"pod","pod":{"name":"x"}}`: "without the pod's namespace",
		`{"version":1,"op":"pod","pod":{"name":"x","namespace":"y"},"wait":-1}`: "a wait of -1 ms",
		`{"version":1,"op":"log"}`: "without a record",
		`x`:                        "is no JSON object",
		``:                         "is no JSON object",
	} {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, text+"\n")
		b, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || !strings.Contains(strings.ReplaceAll(string(b), `\"`, `"`), want) {
			t.Errorf("%s: %q, %v", text, b, err)
		}
	}
	// One who says nothing holds nobody up.
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := Ping(within(t, 5*time.Second), socket); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(conn); err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// TestTakeOver: an agent that starts before another ends takes its place, and
// there is always one.
func TestTakeOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("the first has removed the second's socket: %v", err)
	} else {
		conn.Close()
	}
	second.Close()
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 0 {
		t.Errorf("left over: %v", entries)
	}
	os.WriteFile(path, []byte("precious"), 0o600)
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Error(err)
	}
	if _, err := Listen("/" + strings.Repeat("x", 100)); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Error(err)
	}
}

// TestMany: more ask at once than are served at a time.
func TestMany(t *testing.T) {
	socket := serve(t, Server{Ready: ready, Parallel: 4, Pod: func(_ context.Context, p Pod) (Facts, error) {
		return Facts{Found: true, Annotations: map[string]string{"name": p.Name}}, nil
	}})
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			name := fmt.Sprint("pod-", i)
			facts, err := Ask(within(t, 10*time.Second), socket, Pod{Namespace: "ns", Name: name})
			if err != nil || facts.Annotations["name"] != name {
				t.Errorf("%+v, %v", facts, err)
			}
		})
	}
	wg.Wait()
}

// FuzzReadMessage holds that any bytes give an error or a message that can be
// written again, without a panic.
func FuzzReadMessage(f *testing.F) {
	f.Add([]byte(`{"version":1,"op":"pod","pod":{"namespace":"a","name":"b"}}` + "\n"))
	f.Add([]byte(`{"version":1,"op":"log","record":{"msg":"x"}}` + "\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var req Request
		if err := readMessage(bytes.NewReader(b), &req); err != nil || req.Validate() != nil {
			return
		}
		var out bytes.Buffer
		if err := writeMessage(&out, req); err != nil {
			t.Fatal(err)
		}
		var again Request
		if err := readMessage(&out, &again); err != nil {
			t.Fatal(err)
		}
	})
}

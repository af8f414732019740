//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unicode"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/infile"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// acting are characters by which terminals act, in the end of a line and in others.
const acting = "\x1b[2J\u009b2J\x7f\u2028\u202e\r\n"

// TestControlCharacters: neither what the runtime is told nor the log moves a
// cursor or has a line more than it should, whatever a pod is called or asks for.
func TestControlCharacters(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	annotations, err := json.Marshal(map[string]string{
		"intercept.mesh/enabled": "true" + acting, "intercept.mesh/x" + acting: acting, "intercept.mesh/dns": acting,
	})
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]call{"named": ofPod("ADD"), "unknown": {command: "AD" + acting}}
	hostile := ofPod("ADD")
	hostile.args = "K8S_POD_NAMESPACE=n" + acting + ";K8S_POD_NAME=\x9bw" + acting
	hostile.netns = "/gone" + acting
	calls["hostile"] = hostile
	for name, c := range calls {
		var out, stderr bytes.Buffer
		stdin := strings.Replace(entry(string(annotations), ""), `"logFile":""`, fmt.Sprintf(`"logFile":%q`, log), 1)
		if code := run(t.Context(), c, strings.NewReader(stdin), &out, &stderr); code != 1 {
			t.Fatalf("%s: exit code %d", name, code)
		}
		var e struct{ Msg string }
		if err := json.Unmarshal(out.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		lines, err := os.ReadFile(log)
		if err != nil && name != "unknown" {
			t.Fatal(err)
		}
		for what, text := range map[string]string{"message": e.Msg, "result": strings.TrimSuffix(out.String(), "\n"),
			"standard error": stderr.String(), "log": strings.ReplaceAll(string(lines), "}\n", "}")} {
			if i := strings.IndexFunc(text, func(r rune) bool {
				return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
			}); i >= 0 {
				t.Errorf("%s: %s: %q", name, what, text[i:])
			}
		}
	}
}

// TestLogIsFIFO: nobody reads it, and no line waits for a reader.
func TestLogIsFIFO(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "log")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := appendLine(fifo, 1000, []byte("x")); !errors.Is(err, syscall.ENXIO) {
		t.Errorf("without a reader: %v", err)
	}
	reader, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := appendLine(fifo, 1000, []byte("x")); !errors.Is(err, infile.ErrKind) {
		t.Errorf("with one: %v", err)
	}
}

// endless is standard input without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, strings.Repeat(" ", len(p))), nil }

// TestLongInput: what is too long to be from a runtime is not read to its end.
func TestLongInput(t *testing.T) {
	for command, want := range map[string]int{"ADD": 1, "DEL": 0} {
		var out bytes.Buffer
		code := run(t.Context(), ofPod(command), endless{}, &out, io.Discard)
		if code != want || want == 1 && !strings.Contains(out.String(), `"code":5,"msg":"standard input: it is over`) {
			t.Errorf("%s: exit code %d, %s", command, code, out.String())
		}
	}
}

// namespace makes a network namespace that goes with the test.
func namespace(t *testing.T) *netlab.Namespace {
	t.Helper()
	n, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// TestNamespaceReplaced: the path in CNI_NETNS comes to lead to another pod while the
// agent is asked, as that of a process whose number is used again. Rules go to the
// namespace that it led to, the other's are not touched, and the runtime is told.
func TestNamespaceReplaced(t *testing.T) {
	netlab.Require(t)
	dir := t.TempDir()
	pod, other, link := namespace(t), namespace(t), filepath.Join(dir, "netns")
	if err := os.Symlink(pod.Path(), link); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "agent.sock")
	l, err := cniwire.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	agent := cniwire.Server{Ready: func() error { return nil }, Log: func(cniwire.Record, json.RawMessage) {},
		Pod: func(context.Context, cniwire.Pod) (cniwire.Facts, error) {
			turned := filepath.Join(dir, "turned")
			if err := errors.Join(os.Symlink(other.Path(), turned), os.Rename(turned, link)); err != nil {
				t.Error(err)
			}
			return cniwire.Facts{Found: true, Annotations: map[string]string{"intercept.mesh/enabled": "true"}}, nil
		}}
	go func() { served <- agent.Serve(ctx, l) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	c := ofPod("ADD")
	c.netns = link
	stdin := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"n","logFile":"","agentSocket":%q,"agentTimeout":"1m"}`, socket)
	var out bytes.Buffer
	code := run(t.Context(), c, strings.NewReader(stdin), &out, io.Discard)
	text := out.String()
	if code != 1 || !strings.Contains(text, `"code":8,`) || !strings.Contains(text, link+" led to one when") {
		t.Errorf("exit code %d, %s", code, text)
	}
	if _, err := (dataplane.Pod{NetNS: pod.Path()}).Status(t.Context()); err != nil {
		t.Errorf("where the path led: %v", err)
	}
	if _, err := (dataplane.Pod{NetNS: other.Path()}).Status(t.Context()); !errors.Is(err, intercept.ErrNotIntercepted) {
		t.Errorf("where it leads now: %v", err)
	}
}

// TestNamespacePaths: what a path in CNI_NETNS may be, and what it leads to if it is
// a link.
func TestNamespacePaths(t *testing.T) {
	netlab.Require(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	pod := namespace(t)
	if err := errors.Join(os.Symlink(pod.Path(), at("link")), os.Symlink("link", at("link of link")),
		syscall.Mkfifo(at("fifo"), 0o600), os.Symlink("fifo", at("link of fifo")), os.WriteFile(at("file"), nil, 0o600),
		os.Symlink("file", at("link of file")), os.Symlink("nothing", at("dangling")), os.Symlink("around", at("around")),
		os.Symlink("/proc/self/ns/net", at("own")), os.Symlink("/proc/self/ns/uts", at("uts"))); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"link": "", "link of link": "", "own": "", // the plugin's own is the node's: hostNetwork
		"fifo": "a file of another kind", "link of fifo": "a file of another kind", "file": "a file of another kind",
		"link of file": "a file of another kind", "uts": "a file of another kind", ".": "a file of another kind",
		"nothing": "there is no such file", "dangling": "there is no such file", "around": "too many levels",
		strings.Repeat("x", 300): "file name too long",
	} {
		c := ofPod("ADD")
		c.netns = dir + "/" + name
		var out bytes.Buffer
		code := run(t.Context(), c, strings.NewReader(entry(asks, "")), &out, io.Discard)
		switch text := out.String(); {
		case want == "" && code != 0, want != "" && (code != 1 || !strings.Contains(text, want) ||
			!strings.Contains(text, `"code":8,`) || !strings.Contains(text, c.netns)):
			t.Errorf("%s: exit code %d, %s; want %s", name, code, text, want)
		}
	}
	if _, err := (dataplane.Pod{NetNS: pod.Path()}).Status(t.Context()); err != nil {
		t.Error(err)
	}
}

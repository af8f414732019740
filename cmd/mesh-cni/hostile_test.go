//go:build linux

package main

import (
	"bytes"
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

	"github.com/mesh-intercept/intercept/internal/infile"
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

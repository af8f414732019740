package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/verify"
)

// TestTerminationLog: the error of a failed run is where kubectl describe pod finds it, and nowhere else.
func TestTerminationLog(t *testing.T) {
	dir := t.TempDir()
	path, elsewhere := filepath.Join(dir, "termination-log"), filepath.Join(dir, "elsewhere")
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		b, _ := os.ReadFile(name)
		return string(b)
	}
	failing := fakePlane{err: intercept.ErrNotIntercepted}
	write(path, "what was there before, which is longer than what is written"+strings.Repeat(".", 500))
	r := invokeOn(t, failing, "", nil, "check", "--termination-log", path)
	if got := read(path); got != r.stderr || !strings.Contains(got, "; run mesh-init apply there") || r.code != 10 {
		t.Errorf("exit code %d: %q, and on standard error %q", r.code, got, r.stderr)
	}
	r = invokeOn(t, failing, "", []string{"MESH_TERMINATION_LOG=" + path}, "apply", "--dns", "x", "--dns-port", "0")
	if got := read(path); r.code != 2 || strings.Count(got, "\n") != 2 || !strings.Contains(got, "--dns-port") {
		t.Errorf("exit code %d: %q", r.code, got)
	}

	write(path, "")
	for _, args := range [][]string{{"apply", "--termination-log", path}, {"verify", "--termination-log", path}} {
		p := fakePlane{verified: verify.Report{Verdict: verify.OK}}
		if r := invokeOn(t, p, "", nil, args...); r.code != 0 || read(path) != "" {
			t.Errorf("%q: exit code %d, %q", args, r.code, read(path))
		}
	}
	if r := invokeOn(t, failing, "", nil, "apply", "--termination-log", "none"); r.code != 10 || read(path) != "" {
		t.Errorf("none: %q", read(path))
	}

	long := fakePlane{err: errors.New(strings.Repeat("é", 5000))}
	if invokeOn(t, long, "", nil, "apply", "--termination-log", path); len(read(path)) > 4096 ||
		len(read(path)) < 4000 || !utf8.ValidString(read(path)) || !strings.HasSuffix(read(path), "…\n") {
		t.Errorf("%d bytes: …%q", len(read(path)), read(path)[len(read(path))-10:])
	}

	// What check and verify found is named.
	drifted := fakePlane{differences: []intercept.Difference{{What: "chain output, rule O12", Problem: "missing"}}}
	if invokeOn(t, drifted, "", nil, "check", "--termination-log", path); !strings.Contains(read(path), "rule O12: missing") {
		t.Errorf("%q", read(path))
	}
	failed := fakePlane{verified: verify.Report{Verdict: verify.Failed, Verdicts: []verify.Verdict{{Verdict: verify.Failed,
		What: "the listener"}}}}
	if invokeOn(t, failed, "", nil, "verify", "--termination-log", path); !strings.Contains(read(path), "failed: the listener") {
		t.Errorf("%q", read(path))
	}
	absent := filepath.Join(dir, "absent")
	if invokeOn(t, failing, "", nil, "apply", "--termination-log", absent); read(absent) != "" {
		t.Error("a file was made")
	}
	if _, err := os.Lstat(absent); err == nil {
		t.Error("a file was made")
	}
	write(elsewhere, "mine")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(elsewhere, link); err != nil {
		t.Fatal(err)
	}
	if invokeOn(t, failing, "", nil, "apply", "--termination-log", link); read(elsewhere) != "mine" {
		t.Errorf("a link was followed: %q", read(elsewhere))
	}
}

// TestMetricsFile: its text is Prometheus', it is written in one step, and that it cannot be written is said and
// changes nothing.
func TestMetricsFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mesh.prom")
	applied := fakePlane{result: dataplane.Result{Choice: dataplane.Choice{Backend: dataplane.BackendNFT},
		Outcome: intercept.Created, Rules: 56}}
	for _, tc := range []struct {
		p    fakePlane
		verb string
		code int
		want []string
	}{
		{applied, "apply", 0, []string{`last_run_info{verb="apply",outcome="created",backend="nft",version="`,
			`last_run_exit_code{verb="apply"} 0`, `rules{verb="apply"} `}},
		{fakePlane{err: intercept.ErrLocked}, "apply", 17, []string{`outcome="failed",backend=""`, `_code{verb="apply"} 17`}},
		{fakePlane{differences: []intercept.Difference{{}}}, "check", 11, []string{`outcome="drifted"`,
			`_code{verb="check"} 11`}},
		{fakePlane{}, "check", 0, []string{`outcome="ok"`}},
		{fakePlane{verified: verify.Report{Verdict: verify.NotProven}}, "verify", 19,
			[]string{`outcome="not proven"`, `rules{verb="verify"} 56`}},
	} {
		r := invokeOn(t, tc.p, "", []string{"MESH_METRICS_FILE=" + path}, tc.verb)
		text, err := os.ReadFile(path)
		if err != nil || r.code != tc.code {
			t.Fatalf("%s: exit code %d, %v", tc.verb, r.code, err)
		}
		for _, want := range append(tc.want, `last_run_duration_seconds{verb="`+tc.verb+`"} `) {
			if !strings.Contains(string(text), "\nmesh_init_"+want) && !strings.Contains(string(text), want) {
				t.Errorf("%s: there is no %s in\n%s", tc.verb, want, text)
			}
		}
		line := regexp.MustCompile(`^(# (HELP|TYPE) mesh_init_\w+ .+|mesh_init_\w+\{(\w+="[^"]*",?)+\} [0-9.]+)$`)
		for got := range strings.Lines(string(text)) {
			if !line.MatchString(strings.TrimSuffix(got, "\n")) {
				t.Errorf("%s: %q", tc.verb, got)
			}
		}
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("there are %v", files)
	}
	// What is no plain file stays: a link here, and /dev/null as well.
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if r := invokeOn(t, applied, "", nil, "apply", "--metrics-file", link); !strings.Contains(r.stderr, "not a regular file") {
		t.Errorf("%q", r.stderr)
	}
	if to, err := os.Readlink(link); err != nil || to != path {
		t.Error("it is another file now", to, err)
	}
	r := invokeOn(t, applied, "", nil, "apply", "--metrics-file", filepath.Join(dir, "none", "x"))
	if r.code != 0 || !strings.Contains(r.stderr, "the metrics could not be written") {
		t.Errorf("exit code %d: %q", r.code, r.stderr)
	}
}

// TestResultLine: logs for programs have one line that says how the run ended; others have what is on standard output.
func TestResultLine(t *testing.T) {
	applied := fakePlane{result: dataplane.Result{Choice: dataplane.Choice{Backend: dataplane.BackendNFT},
		Outcome: intercept.Replaced}}
	r := invokeOn(t, applied, "", nil, "apply", "--log-format", "json")
	var line map[string]any
	if err := json.Unmarshal([]byte(r.stderr), &line); err != nil || line["msg"] != "result" || line["verb"] != "apply" ||
		line["outcome"] != "replaced" || line["exit"] != 0.0 || line["backend"] != "nft" || line["seconds"] == nil {
		t.Errorf("%v: %q", err, r.stderr)
	}
	r = invokeOn(t, fakePlane{err: intercept.ErrLocked}, "", nil, "apply", "--log-format", "json")
	if lines := r.lines(); len(lines) != 1 || !strings.Contains(lines[0], fmt.Sprintf(`"exit":%d`, r.code)) {
		t.Errorf("%q", lines)
	}
	if r = invokeOn(t, applied, "", nil, "apply"); r.stderr != "" {
		t.Errorf("%q", r.stderr)
	}
	if r = invokeOn(t, applied, "", nil, "apply", "--log-level", "debug"); !strings.Contains(r.stderr, "msg=result") {
		t.Errorf("%q", r.stderr)
	}
}

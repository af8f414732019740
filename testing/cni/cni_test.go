//go:build linux

// Package cni_test runs mesh-cni as runtimes do: by hand and through libcni.
// That it works under containerd is shown by kube/testing/containerd.
package cni_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

// versions are those of the CNI specification that mesh-cni speaks.
var versions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}

// plugins is a directory with mesh-cni, as it is shipped, and first, which is
// the program of package part.
var plugins string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "mesh-cni-test")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		plugins = dir
		if err := errors.Join(
			program.Build(filepath.Join(dir, "mesh-cni"), "cmd/mesh-cni"),
			program.Build(filepath.Join(dir, "first"), "testing/part"),
		); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// goBuild compiles a program that is not of this repository.
func goBuild(output, source string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", output, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// A result is what an earlier plugin has made, spaced as nobody would.
func result(version string) string {
	if strings.HasPrefix(version, "0.") {
		return `{"cniVersion":  "` + version +
			`" ,"ips":[ {"version":"4","address":"10.244.0.5/24"}],"dns":{},  "unknown": [1,  2 ]}`
	}
	return `{"cniVersion":  "` + version + `" ,"ips":[ {"address":"10.244.0.5/24"}],"dns":{},  "unknown": [1,  2 ]}`
}

// A call is one run of mesh-cni.
type call struct {
	command string
	// version, entry and annotations make standard input: raw fields of the
	// entry, and the annotations that the runtime gives, unless nil.
	version     string
	entry       map[string]string
	annotations map[string]string
	noResult    bool
	stdin       string // instead
	netns       string
	env         map[string]string // over that of a pod default/web; "-" is unset
	logs        string            // a file, else none
	hidden      bool              // there are no programs on this node
}

var meshed = map[string]string{"kubernetes.io/config.source": "api", "intercept.mesh/enabled": "true"}
var plain = map[string]string{"kubernetes.io/config.source": "api"}

func (c call) input() string {
	if c.stdin != "" {
		return c.stdin
	}
	if c.version == "" {
		c.version = "1.0.0"
	}
	fields := map[string]string{
		"cniVersion": `"` + c.version + `"`, "name": `"pods"`, "type": `"mesh-cni"`,
		"capabilities": `{"io.kubernetes.cri.pod-annotations":true}`,
		"logFile":      `"` + c.logs + `"`,
	}
	if !c.noResult && c.command != "STATUS" && c.command != "GC" {
		fields["prevResult"] = result(c.version)
	}
	if c.annotations != nil {
		b, err := json.Marshal(c.annotations)
		if err != nil {
			panic(err)
		}
		fields["runtimeConfig"] = `{"io.kubernetes.cri.pod-annotations":` + string(b) + `}`
	}
	maps.Copy(fields, c.entry)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if fields[name] != "-" {
			fmt.Fprintf(&b, ",%q:%s", name, fields[name])
		}
	}
	return "{" + b.String()[1:] + "}"
}

func (c call) cmd(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(plugins, "mesh-cni"))
	env := map[string]string{
		"CNI_COMMAND": c.command, "CNI_CONTAINERID": "0123456789ab", "CNI_NETNS": c.netns, "CNI_IFNAME": "eth0",
		"CNI_PATH": plugins,
		"CNI_ARGS": "IgnoreUnknown=1;K8S_POD_UID=u1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;" +
			"K8S_POD_INFRA_CONTAINER_ID=0123456789ab",
		"PATH": os.Getenv("PATH"),
	}
	if c.hidden {
		// A mount namespace in which nothing is where iptables is looked for.
		env["PATH"] = "/nowhere"
		plugin := cmd.Path
		cmd = exec.CommandContext(ctx, "/usr/bin/unshare", "-m", "/bin/sh", "-c",
			`/bin/mount -t tmpfs none /usr/sbin && exec "$0"`, plugin)
	}
	maps.Copy(env, c.env)
	cmd.Env = []string{}
	for name, value := range env {
		if value != "-" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Stdin = strings.NewReader(c.input())
	return cmd
}

// outcome is how a run ends.
type outcome struct {
	stdout, stderr string
	exit           int
	// err is the error object, if it is one.
	err struct {
		CNIVersion string `json:"cniVersion"`
		Code       uint   `json:"code"`
		Msg        string `json:"msg"`
	}
}

func (c call) run(t testing.TB) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return finish(t, c.cmd(ctx))
}

func finish(t testing.TB, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	o := outcome{stdout: stdout.String(), stderr: stderr.String(), exit: cmd.ProcessState.ExitCode()}
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() < 0) {
		t.Fatalf("%v: %s", err, &stderr)
	}
	if o.exit != 0 {
		if err := json.Unmarshal(stdout.Bytes(), &o.err); err != nil {
			t.Errorf("exit code %d, and no error object, but %q", o.exit, o.stdout)
		}
	}
	return o
}

// refused expects an error with a code and a text.
func (o outcome) refused(t testing.TB, name string, code uint, parts ...string) {
	t.Helper()
	if o.exit != 1 || o.err.Code != code || strings.ContainsRune(o.err.Msg, '\n') {
		t.Errorf("%s: exit code %d, code %d, want %d: %s%s", name, o.exit, o.err.Code, code, o.stdout, o.stderr)
	}
	for _, part := range parts {
		if !strings.Contains(o.err.Msg, part) {
			t.Errorf("%s: %q is missing of %q", name, part, o.err.Msg)
		}
	}
}

// passed expects a success with exactly an output.
func (o outcome) passed(t testing.TB, name, want string) {
	t.Helper()
	if o.exit != 0 || o.stdout != want || o.stderr != "" {
		t.Errorf("%s: exit code %d, standard output %q, want %q; standard error %q", name, o.exit, o.stdout, want, o.stderr)
	}
}

// namespace is a pod's, without anything in it.
func namespace(t testing.TB) *netlab.Namespace {
	t.Helper()
	netlab.Require(t)
	n, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// intercepted says whether a namespace has the rules of a configuration, and
// fails if it has others.
func intercepted(t testing.TB, netns string, c intercept.Config) bool {
	t.Helper()
	diffs, err := dataplane.Pod{NetNS: netns}.Check(t.Context(), c)
	if errors.Is(err, intercept.ErrNotIntercepted) {
		return false
	}
	if err != nil || len(diffs) > 0 {
		t.Errorf("the rules: %v, %v", diffs, err)
	}
	return true
}

// agent answers mesh-cni until the test is over.
func agent(t testing.TB, s cniwire.Server) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "agent.sock")
	l, err := cniwire.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	if s.Ready == nil {
		s.Ready = func() error { return nil }
	}
	if s.Log == nil {
		s.Log = func(cniwire.Record, json.RawMessage) {}
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
	return socket
}

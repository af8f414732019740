//go:build linux

package e2e_test

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/settings"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
	"github.com/mesh-intercept/intercept/testing/quickstart"
	"github.com/mesh-intercept/intercept/verify"
)

const (
	page        = "../../docs/quickstart.md"
	sandboxPage = "../../docs/sandbox.md"
	startPage   = "../../docs/getting-started.md"
)

// TestQuickstart types the commands of docs/quickstart.md, in the directory
// with its files, and compares what they print with what the page shows. With
// MESH_TEST_UPDATE=1 it writes that into the page instead.
func TestQuickstart(t *testing.T) {
	quickstart.Type(t, page, quickstart.Typing{
		Listening: map[string][]int{"sidecar haproxy": {15001, 15006, 15021}, "sidecar dnsmasq": {15053}}})
}

// TestSandbox does the same with docs/sandbox.md.
func TestSandbox(t *testing.T) {
	quickstart.Type(t, sandboxPage, quickstart.Typing{
		Listening: map[string][]int{"sidecar haproxy": {15001, 15006, 15080}, "sidecar dnsmasq": {15053}}})
}

// TestMigrateIstio does the same with docs/migrate-istio.md.
func TestMigrateIstio(t *testing.T) {
	netlab.RequireProgram(t, "iptables-nft-restore")
	quickstart.Type(t, "../../docs/migrate-istio.md", quickstart.Typing{})
}

// TestFAQ does the same with docs/faq.md, after the commands of the quickstart that make its pod.
func TestFAQ(t *testing.T) {
	made := quickstart.Read(t, page)
	applied := slices.IndexFunc(made.Commands, func(c quickstart.Command) bool {
		return strings.Contains(c.Line, " apply ")
	})
	made.Commands = made.Commands[:applied+1]
	quickstart.Type(t, "../../docs/faq.md", quickstart.Typing{Before: made,
		Listening: map[string][]int{"sidecar haproxy": {15001, 15006, 15021}, "sidecar dnsmasq": {15053}}})
}

// TestBareHost does the same with a section of docs/getting-started.md, on a machine that is a network namespace.
func TestBareHost(t *testing.T) {
	quickstart.Type(t, startPage, quickstart.Typing{Section: "On a bare host"})
}

// TestGoProgram builds the program of docs/getting-started.md, by its commands in a directory of its own, and runs it.
func TestGoProgram(t *testing.T) {
	const section = "From a Go program"
	shown := quickstart.Read(t, startPage)
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	dir := filepath.Join(home, "member")
	if err := errors.Join(os.Mkdir(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "main.go"), []byte(shown.File(t, "main.go")), 0o600)); err != nil {
		t.Fatal(err)
	}
	script := shown.Script(t, section, "go mod init example.com/member")
	const clone = "=/opt/intercept\n"
	if strings.Count(script, clone) != 1 {
		t.Fatalf("the page's clone is not at %q: %s", clone, script)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-euc", strings.Replace(script, clone, "='"+root+"'\n", 1))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOTOOLCHAIN=local")
	for _, name := range []string{"GOMODCACHE", "GOCACHE"} { // they are in the real home
		cache, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, name+"="+strings.TrimSpace(string(cache)))
	}
	cmd.Env = append(cmd.Env, "HOME="+home)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), filepath.Join(dir, "member")).CombinedOutput(); err == nil ||
		!strings.Contains(string(out), "give the path of a network namespace: ./member /run/netns/pod\n") {
		t.Errorf("without an argument: %v\n%s", err, out)
	}
	quickstart.Type(t, startPage, quickstart.Typing{Section: section, Folder: dir})
}

// TestQuickstartConfig: with the page's mesh.yaml HAProxy and dnsmasq serve
// IPv4, IPv6 is refused, and the port excluded goes past HAProxy. Interception
// works, as verify has it.
func TestQuickstartConfig(t *testing.T) {
	t.Parallel()
	config := shownConfig(t, withHAProxy)
	lab := newPod(t, config)
	haproxy := startHAProxy(t, lab)
	startDNSMasq(t, lab)
	throughProxy(t, lab, haproxy)
	if got, own := call(t, lab, service); got.Role != netlab.RoleApp || got.Client == own {
		t.Errorf("%s: %s", service, got)
	}

	database, lookup := outside, outside
	database.Dst = netip.MustParseAddrPort("203.0.113.7:5432")
	lookup.Protocol, lookup.Dst = intercept.UDP, netip.MustParseAddrPort("10.96.0.10:53")
	if got, own := call(t, lab, database); got.Role != netlab.RolePeer || got.Client != own {
		t.Errorf("%s: %s, while the caller's own address is %s", database, got, own)
	}
	lookup6 := lookup
	lookup6.Dst = netip.MustParseAddrPort("[fd00:96::a]:53")
	for _, f := range []netlab.Flow{outside6, lookup6} {
		if got, err := lab.Send(f); err != nil || got.Fate.Action != intercept.Rejected {
			t.Errorf("%s: %s, %v", f, got, err)
		}
	}
	report, err := dataplane.Pod{NetNS: lab.Pod.Path()}.Verify(t.Context(), config)
	if err != nil || report.Verdict != verify.OK {
		t.Errorf("%s, %v", report.Verdict, err)
	}
	for _, v := range report.Verdicts {
		if v.Verdict != verify.OK {
			t.Errorf("%s: %s", v.Verdict, v)
		}
	}
}

// TestOneSocketForBothFamilies: why HAProxy binds 0.0.0.0 on the page. On a
// socket of both families it does not learn the original destination.
func TestOneSocketForBothFamilies(t *testing.T) {
	t.Parallel()
	lab := newPod(t, shownConfig(t, withHAProxy))
	config := strings.Replace(quickstart.Read(t, page).File(t, "haproxy.cfg"), "bind 0.0.0.0:15001", "bind :::15001 v4v6",
		1)
	startHAProxyWith(t, lab, config)
	conn, err := dial(lab, unix.SOCK_STREAM, outside.Dst, app)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); err != io.EOF && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read %d bytes, %v; HAProxy should have refused to call itself", n, err)
	}
}

// proxy is one for which the page has a variant of mesh.yaml.
type proxy string

const (
	withHAProxy proxy = "HAProxy"
	withEnvoy   proxy = "Envoy"
)

// shownConfig is what the page's mesh.yaml says for a proxy.
func shownConfig(t *testing.T, p proxy) intercept.Config {
	t.Helper()
	config, err := settings.Load([]byte(quickstart.Read(t, page).File(t, "mesh.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	if config.Families != intercept.FamiliesIPv4 || config.OtherFamily != intercept.TreatmentReject {
		t.Errorf("mesh.yaml: families %s, otherFamily %s", config.Families, config.OtherFamily)
	}
	if p == withEnvoy {
		config.Families, config.OtherFamily = intercept.Default().Families, intercept.Default().OtherFamily
	}
	return config
}

// TestBackendsPage compares what docs/backends.md says that apply prints with what it prints.
func TestBackendsPage(t *testing.T) {
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	mesh := filepath.Join(t.TempDir(), "mesh-init")
	if err := program.Build(mesh, "cmd/mesh-init"); err != nil {
		t.Fatal(err)
	}
	printed, err := exec.Command(mesh, "apply", "--netns", ns.Path()).Output()
	if err != nil {
		t.Fatal(err)
	}
	shown, err := os.ReadFile("../../docs/backends.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := "$ mesh-init apply --netns /run/netns/pod\n" + string(printed); !strings.Contains(string(shown), want) {
		t.Errorf("docs/backends.md does not show\n%s", want)
	}
}

//go:build linux

package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
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
)

// TestQuickstart types the commands of docs/quickstart.md, in the directory
// with its files, and compares what they print with what the page shows. With
// MESH_TEST_UPDATE=1 it writes that into the page instead.
func TestQuickstart(t *testing.T) {
	typePage(t, page, map[string][]int{"haproxy": {15001, 15006, 15021}, "dnsmasq": {15053}})
}

// TestSandbox does the same with docs/sandbox.md.
func TestSandbox(t *testing.T) {
	netlab.RequireProgram(t, "openssl")
	typePage(t, sandboxPage, map[string][]int{"haproxy": {15001, 15006, 15080}, "dnsmasq": {15053}})
}

// TestMigrateIstio does the same with docs/migrate-istio.md.
func TestMigrateIstio(t *testing.T) {
	netlab.RequireProgram(t, "iptables-nft-restore")
	typePage(t, "../../docs/migrate-istio.md", nil)
}

// typePage types the commands of a page. listening are the ports of the
// sidecar's programs, which are waited for.
//
// The namespaces that the page makes are in a mount namespace of the test's
// own, and the programs in a PID namespace: nothing is left behind.
func typePage(t *testing.T, page string, listening map[string][]int) {
	t.Helper()
	netlab.Require(t)
	for _, name := range []string{"haproxy", "dnsmasq", "ip", "setpriv", "curl", "mount"} {
		netlab.RequireProgram(t, name)
	}
	dir := t.TempDir()
	if err := program.Build(filepath.Join(dir, "mesh-init"), "cmd/mesh-init"); err != nil {
		t.Fatal(err)
	}
	shown := quickstart.Read(t, page)
	for name, text := range shown.Files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	// $1 is the directory. The proxy's user may not enter it.
	script := `
		mount -t proc proc /proc && mount -t tmpfs tmpfs /run && mount -t tmpfs -o mode=755 tmpfs /mnt &&
		cp "$1"/* /mnt && cd /mnt && PATH=/mnt:$PATH &&
		echo nameserver 10.96.0.10 > resolv.conf && mount --bind resolv.conf /etc/resolv.conf || exit
		await() { # for ten seconds at most
			for try in {1..1000}; do
				"$@" && return
				sleep 0.01
			done
			echo "in vain: $*"
		}
		listens() { [[ $(ip netns exec pod cat /proc/net/tcp) == *:$1\ 00000000:0000\ 0A* ]]; }
		logged() { [[ $(wc -l < haproxy.log) == $1 ]]; }
	`
	for i, c := range shown.Commands {
		if strings.HasSuffix(c.Line, " haproxy.log") { // HAProxy logs a connection when it has ended
			script += fmt.Sprintf("await logged %d\n", strings.Count(c.Output, "\n"))
		}
		script += fmt.Sprintf("echo '%s %d'\n%s\n", mark, i, c.Line)
		for program, ports := range listening {
			if strings.HasPrefix(c.Line, "sidecar "+program) {
				for _, port := range ports {
					script += fmt.Sprintf("await listens %04X\n", port)
				}
			}
		}
	}
	cmd := exec.Command("bash", "-c", script, "bash", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
		Unshareflags: syscall.CLONE_NEWNS, // and makes it private
		Pdeathsig:    syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	printed := strings.Split(string(out), mark+" ")
	if len(printed) != len(shown.Commands)+1 {
		t.Fatalf("%d of %d commands were run:\n%s", len(printed)-1, len(shown.Commands), out)
	}
	if os.Getenv("MESH_TEST_UPDATE") == "1" {
		update(t, page, shown.Commands, printed[1:])
		return
	}
	for i, c := range shown.Commands {
		_, got, _ := strings.Cut(printed[i+1], "\n")
		if diff := cmp.Diff(ports(c.Output), ports(got)); diff != "" {
			t.Errorf("%s: the page shows (-), and it printed (+):\n%s", c.Line, diff)
		}
	}
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

// mark stands in the output before the number of each command.
const mark = "=== command"

var ephemeral = regexp.MustCompile(`:(3[2-9]|4\d|5\d|6\d)\d{3}\b`)

// ports makes all ports that the kernel chooses the same.
func ports(s string) string { return ephemeral.ReplaceAllString(s, ":PORT") }

// update writes what the commands printed into the page, where it differs.
func update(t *testing.T, page string, commands []quickstart.Command, printed []string) {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i, c := range commands {
		_, got, _ := strings.Cut(printed[i], "\n")
		if ports(c.Output) != ports(got) {
			prompt := "$ " + c.Line + "\n"
			text = strings.Replace(text, prompt+c.Output, prompt+got, 1)
		}
	}
	if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
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

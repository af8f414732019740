//go:build linux && gvisor

package gvisor

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/mesh-intercept/intercept/internal/gvisor"
)

// TestInside is what runs in the sandbox, one at a time, each in a sandbox of its own.
func TestInside(t *testing.T) {
	if os.Getenv(roleEnv) != "sandbox" {
		t.Skip("it is for the sandbox")
	}
	if !gvisor.Here() {
		t.Fatal("this is not known for gVisor")
	}
	for name, f := range map[string]func(*testing.T){"verbs": verbs, "drift": drift, "failed": failed, "refused": refused,
		"room": room, "traffic": traffic, "verify": verifies, "deep": deep, "privileges": privileges} {
		t.Run(name, f)
	}
}

// meshInit runs mesh-init.
func meshInit(args ...string) (out string, code int) {
	return run(exec.Command(os.Getenv(initEnv), args...))
}

func run(cmd *exec.Cmd) (out string, code int) {
	b, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(b), exit.ExitCode()
	}
	if err != nil {
		return string(b) + err.Error(), -1
	}
	return string(b), 0
}

// must runs mesh-init, which has to end with a code and say words.
func must(t *testing.T, code int, words string, args ...string) {
	t.Helper()
	out, got := meshInit(args...)
	text := strings.Join(strings.Fields(out), " ")
	if got != code || !strings.Contains(text, words) {
		t.Fatalf("mesh-init %s: exit code %d; want %d, and %q:\n%s", strings.Join(args, " "), got, code, words, out)
	}
}

// iptables runs a program of iptables-legacy.
func iptables(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// rulesOfOurs counts our rules, and the jumps to them, of both families.
func rulesOfOurs(t *testing.T) (n int) {
	t.Helper()
	for _, p := range []string{"iptables-legacy-save", "ip6tables-legacy-save"} {
		for _, table := range []string{"raw", "filter", "nat"} {
			for line := range strings.Lines(iptables(t, p, "-t", table)) {
				if strings.HasPrefix(line, "-A ") && strings.Contains(line, "MESH_") {
					n++
				}
			}
		}
	}
	return n
}

// verbs: each verb does there what it does elsewhere.
func verbs(t *testing.T) {
	iptables(t, "iptables-legacy", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "99", "-j", "RETURN")
	for _, flags := range [][]string{{}, {"--dns", "all"}, {"--exclude-uids", "7-9", "--include-gids", "5,6"},
		{"--backend", "iptables-legacy", "--iptables-dialect", "minimal"}, {"--iptables-jumps", "last"},
		{"--proxy-mark", "0x539/0xfff", "--exclude-interfaces", "net1", "--outbound-exclude", "udp 10.0.0.0/8:53 uid=7,9"},
		{"--outbound-target", "192.0.2.9:9000,[2001:db8::9]:9000", "--dns", "all", "--dns-target",
			"192.0.2.9:53,[2001:db8::9]:53"}} {
		with := func(verb string, more ...string) []string { return append(append([]string{verb}, flags...), more...) }
		must(t, 0, "by iptables-legacy", with("apply")...)
		n := rulesOfOurs(t)
		must(t, 0, "unchanged: ", with("apply")...)
		if again := rulesOfOurs(t); n < 20 || again != n {
			t.Fatalf("%v: %d rules, then %d", flags, n, again)
		}
		must(t, 0, "ok", with("check")...)
		must(t, 0, `"chain": "output"`, "status", "-o", "json")
	}
	must(t, 0, "replaced: ", "apply")
	must(t, 0, "gVisor has no backstop", "apply")
	must(t, 0, "REDIRECT --to-ports 15001", "status")
	must(t, 0, "counts nothing", "status")
	must(t, 0, "gVisor, a kernel in user space", "doctor")
	must(t, 0, "redirect(15001)", "explain", "--dst", "10.1.2.3:443")
	must(t, 0, "removed", "remove")
	if n := rulesOfOurs(t); n != 0 {
		t.Fatalf("%d rules of ours are left", n)
	}
	must(t, 0, "nothing to remove", "remove")
	if text := iptables(t, "iptables-legacy-save", "-t", "nat"); !strings.Contains(text, "--dport 99 -j RETURN") {
		t.Errorf("another's rule is gone:\n%s", text)
	}
	must(t, 0, "iptables-legacy ok", "doctor")
}

// drift: a rule that somebody changed is seen, by what the kernel holds, and put right.
func drift(t *testing.T) {
	owner := func(id string) []string { return []string{"-m", "owner", "--uid-owner", id, "-j", "RETURN"} }
	must(t, 0, "created", "apply")
	for what, change := range map[string]func(){
		"another owner": func() {
			iptables(t, "iptables-legacy", append([]string{"-t", "nat", "-R", "MESH_OUTPUT", "6"}, owner("1338")...)...)
		},
		"one rule less": func() { iptables(t, "ip6tables-legacy", "-t", "nat", "-D", "MESH_OUTPUT", "1") },
		"another port": func() {
			iptables(t, "iptables-legacy", "-t", "nat", "-R", "MESH_PREROUTING", "4", "-p", "tcp", "--dport", "15091", "-j", "RETURN")
		},
		"no jump": func() { iptables(t, "iptables-legacy", "-t", "nat", "-D", "OUTPUT", "-j", "MESH_OUTPUT") },
		"a rule of another's in our chain": func() {
			iptables(t, "iptables-legacy", "-t", "nat", "-A", "MESH_OUTPUT", "-m", "mark", "--mark", "7", "-j", "ACCEPT")
		},
	} {
		must(t, 0, "ok", "check")
		change()
		if out, code := meshInit("check"); code == 0 {
			t.Errorf("%s: not seen: %s", what, out)
		}
		must(t, 0, "replaced", "apply")
	}
	must(t, 0, "ok", "check")
}

// failed: of an apply that fails nothing stays in force but what was there before.
func failed(t *testing.T) {
	dir := t.TempDir()
	// It writes, and says that it has not: what it wrote has to go, too.
	script := "#!/bin/sh\nexit 1\n"
	if err := os.WriteFile(filepath.Join(dir, "ip6tables-legacy-restore"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	save, err := exec.LookPath("ip6tables-legacy-save")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(save, filepath.Join(dir, "ip6tables-legacy-save")); err != nil {
		t.Fatal(err)
	}
	broken := func(args ...string) {
		t.Helper()
		cmd := exec.Command(os.Getenv(initEnv), append(args, "--backend", "iptables-legacy")...)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		if out, code := run(cmd); code == 0 {
			t.Fatalf("it did not fail:\n%s", out)
		}
	}
	broken("apply")
	if n := rulesOfOurs(t); n != 0 {
		t.Fatalf("%d rules of ours are in force after an apply that failed", n)
	}
	must(t, 0, "created", "apply")
	before := rulesOfOurs(t)
	broken("apply", "--dns", "all")
	if n := rulesOfOurs(t); n != before {
		t.Errorf("%d rules of ours are in force, and were %d before an apply that failed", n, before)
	}
	must(t, 0, "ok", "check")
	must(t, 0, "removed", "remove")
}

// refused: what gVisor cannot have is refused by name, before anything is written.
func refused(t *testing.T) {
	const unsupported = 12
	for _, tt := range []struct {
		flags []string
		says  string
	}{
		{[]string{"--inbound-mode", "tproxy"}, "gVisor has no TPROXY, and no routes by mark; use --inbound-mode redirect"},
		{[]string{"--drop-invalid"}, "leave out --drop-invalid"},
		{[]string{"--outbound-port", "15001-15004"}, "give one port where a range is"},
		{[]string{"--udp", "reject"}, "gVisor has no match conntrack"},
		{[]string{"--quic", "reject"}, "gVisor has no match conntrack"},
		{[]string{"--exclude-uids", "1000-9999"}, "1000-9999 are too many to list"},
		{[]string{"--backend", "nft"}, "gVisor has no nf_tables; use the backend iptables-legacy"},
		{[]string{"--backend", "iptables-legacy", "--iptables-dialect", "standard"}, "use --iptables-dialect minimal"},
	} {
		must(t, unsupported, tt.says, append([]string{"apply"}, tt.flags...)...)
		if n := rulesOfOurs(t); n != 0 {
			t.Fatalf("%v: %d rules of ours are in force", tt.flags, n)
		}
	}
	must(t, 0, "nothing to remove", "remove")
}

// room: the largest table that is not refused is one that gVisor takes.
func room(t *testing.T) {
	list := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, strconv.Itoa(2000+2*i))
		}
		return strings.Join(all, ",")
	}
	fits, refused := 1, 400
	for fits+1 < refused {
		n := (fits + refused) / 2
		if _, code := meshInit("check", "--backend", "iptables-legacy", "--exclude-uids", list(n)); code != 12 {
			fits = n
		} else {
			refused = n
		}
	}
	if fits < 50 {
		t.Errorf("%d owners is all that fits", fits)
	}
	must(t, 0, "created", "apply", "--exclude-uids", list(fits))
	must(t, 12, "exclude fewer ports and CIDRs", "apply", "--exclude-uids", list(refused))
	must(t, 0, "ok", "check", "--exclude-uids", list(fits))
}

// deep: a packet comes to its rule through sixteen chains, the built-in one among them, and is dropped in the next. So
// deeper ones are refused.
func deep(t *testing.T) {
	start(t, proxy, append([]string{"proxy"}, strings.Split(proxyPorts, ",")...)...)
	to := []string{"-p", "tcp", "-j", "REDIRECT", "--to-ports", "15001"}
	for n := 16; n > 1; n-- {
		chain := "C" + strconv.Itoa(n)
		iptables(t, "iptables-legacy", "-t", "nat", "-N", chain)
		iptables(t, "iptables-legacy", append([]string{"-t", "nat", "-A", chain}, to...)...)
		to = []string{"-j", chain}
	}
	iptables(t, "iptables-legacy", append([]string{"-t", "nat", "-A", "OUTPUT"}, to...)...)
	if got, want := dialAs(app, app, "tcp", "192.0.2.1:80"), "proxy 15001 192.0.2.1:80"; got != want {
		t.Errorf("through 16 chains: %q; want %q", got, want)
	}
	iptables(t, "iptables-legacy", "-t", "nat", "-N", "C17")
	iptables(t, "iptables-legacy", "-t", "nat", "-A", "C17", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "15001")
	iptables(t, "iptables-legacy", "-t", "nat", "-R", "C16", "1", "-j", "C17")
	if got := dialAs(app, app, "tcp", "192.0.2.1:80"); !strings.Contains(got, "timeout") {
		t.Errorf("through 17 chains: %q", got)
	}
}

// start starts a process that is somebody, and ends with the test.
func start(t *testing.T, uid uint32, args ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), roleEnv+"=serve")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%v: %q, %v", args, line, err)
	}
}

// dialAs returns what a server says to somebody.
func dialAs(uid, gid uint32, network, addr string) string {
	cmd := exec.Command(os.Args[0], network, addr)
	cmd.Env = append(os.Environ(), roleEnv+"=dial")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, _ := run(cmd)
	return strings.TrimSpace(out)
}

// addIPv6 gives the sandbox an address of IPv6 that others reach, and a default route.
func addIPv6(t *testing.T) {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 {
			iptables(t, "ip", "-6", "addr", "add", pod6+"/64", "dev", i.Name)
			return
		}
	}
	t.Fatal("there is no interface")
}

// waitForNode lets the node do its part.
func waitForNode(t *testing.T, in *bufio.Reader) {
	t.Helper()
	fmt.Println(readyWord)
	if line, err := in.ReadString('\n'); err != nil || line != goOn {
		t.Fatalf("%q, %v", line, err)
	}
}

const (
	proxy, app, excluded = 1337, 1000, 4000
	proxyPorts           = "15001,15006,dns"
)

// traffic: what is sent and what arrives meets its fate, with its original destination.
func traffic(t *testing.T) {
	in := bufio.NewReader(os.Stdin)
	addIPv6(t)
	start(t, proxy, append([]string{"proxy"}, strings.Split(proxyPorts, ",")...)...)
	start(t, app, "app", "8080", "15020", "15008")
	waitForNode(t, in) // which takes an address of IPv6
	flags := []string{"--dns", "all", "--exclude-uids", strconv.Itoa(excluded), "--exclude-gids", "5000-5002",
		"--outbound-exclude-ports", "8081", "--outbound-exclude-cidrs", "192.168.10.3/32,fd00:244::9/128"}
	must(t, 0, "created", append([]string{"apply"}, flags...)...)
	for _, f := range []struct{ pod, node, outside string }{{pod4, node4, "192.0.2.1"}, {pod6, node6, "fd00:244::1234"}} {
		at := net.JoinHostPort
		for _, tt := range []struct {
			what     string
			uid, gid uint32
			network  string
			addr     string
			want     string
		}{
			{"captured", app, app, "tcp", at(f.outside, "80"), "proxy 15001 " + at(f.outside, "80")},
			{"an excluded CIDR", app, app, "tcp", at(f.node, "8080"), "node 8080 -"},
			{"the proxy itself", proxy, proxy, "tcp", at(f.node, "8080"), "node 8080 -"},
			{"an app inside the pod", app, app, "tcp", at(f.pod, "8080"), "app 8080 -"},
			{"the proxy calls its pod", proxy, proxy, "tcp", at(f.pod, "8080"), "proxy 15006 " + at(f.pod, "8080")},
			{"a lookup over UDP", app, app, "udp", at(f.outside, "53"), "answered 1"},
			{"a lookup at an excluded CIDR", app, app, "udp", at(f.node, "53"), "answered 1"},
		} {
			if got := dialAs(tt.uid, tt.gid, tt.network, tt.addr); got != tt.want {
				t.Errorf("%s, %s: %q; want %q", tt.what, tt.addr, got, tt.want)
			}
		}
		// What is left alone and has nobody to answer is not answered by the proxy.
		for what, got := range map[string]string{
			"an excluded user":    dialAs(excluded, app, "tcp", at(f.node, "8099")),
			"an excluded group":   dialAs(app, 5001, "tcp", at(f.node, "8099")),
			"an excluded port":    dialAs(app, app, "tcp", at(f.node, "8081")),
			"the proxy's lookup":  dialAs(proxy, proxy, "udp", at(f.node, "53")),
			"an excluded lookup":  dialAs(excluded, app, "udp", at(f.node, "53")),
			"nobody in the pod":   dialAs(app, app, "tcp", at(f.pod, "8082")),
			"the tunnel, outside": dialAs(proxy, proxy, "tcp", at(f.node, "15008")),
		} {
			if strings.Contains(got, "proxy") || strings.Contains(got, "answered") || !strings.Contains(got, "refused") {
				t.Errorf("%s, %s: %q", what, f.node, got)
			}
		}
		if got := dialAs(app, app, "tcp", at(f.outside, "15008")); got != "proxy 15001 "+at(f.outside, "15008") {
			t.Errorf("an app at another's tunnel port: %q", got)
		}
	}
	waitForNode(t, in) // which comes in
	must(t, 0, "ok", append([]string{"check"}, flags...)...)
}

// verifies: verify is right where all is intercepted, and where it is not.
func verifies(t *testing.T) {
	addIPv6(t)
	start(t, app, "app", "8080")
	must(t, 0, "created", "apply", "--dns", "all")
	if out, code := meshInit("verify", "--dns", "all"); code == 0 {
		t.Fatalf("ok without a proxy:\n%s", out)
	}
	t.Run("with a proxy", func(t *testing.T) {
		start(t, proxy, append([]string{"proxy"}, strings.Split(proxyPorts, ",")...)...)
		must(t, 0, "an app's lookup over UDP, IPv6", "verify", "--dns", "all")
		for _, rule := range [][]string{
			{"iptables-legacy", "-t", "nat", "-D", "MESH_OUTPUT", "14"},
			{"ip6tables-legacy", "-t", "nat", "-D", "MESH_PREROUTING", "4"},
		} {
			iptables(t, rule[0], rule[1:]...)
			out, code := meshInit("verify", "--dns", "all")
			if code == 0 || !strings.Contains(strings.Join(strings.Fields(out), " "), "failed rules:") {
				t.Errorf("ok without %v:\n%s", rule, out)
			}
			must(t, 0, "replaced", "apply", "--dns", "all")
		}
		must(t, 0, "ok", "verify", "--dns", "all")
	})
	t.Run("with somebody else for a proxy", func(t *testing.T) {
		start(t, 1234, append([]string{"other"}, strings.Split(proxyPorts, ",")...)...)
		out, code := meshInit("verify", "--dns", "all")
		if code == 0 || !strings.Contains(out, "is not the proxy") {
			t.Errorf("%d: %s", code, out)
		}
	})
}

// privileges: CAP_NET_ADMIN and CAP_NET_RAW suffice, and one of them is missed by name.
func privileges(t *testing.T) {
	const netAdmin, netRaw = 12, 13 // linux/capability.h
	with := func(args []string, caps ...uintptr) (string, int) {
		cmd := exec.Command(os.Getenv(initEnv), args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}, AmbientCaps: caps}
		return run(cmd)
	}
	for _, args := range [][]string{{"doctor"}, {"apply"}, {"apply"}, {"check"}, {"status"}, {"remove"}} {
		if out, code := with(args, netAdmin, netRaw); code != 0 {
			t.Errorf("%v: exit code %d\n%s", args, code, out)
		}
	}
	for name, c := range map[string]uintptr{"CAP_NET_RAW": netAdmin, "CAP_NET_ADMIN": netRaw} {
		if out, code := with([]string{"apply"}, c); code == 0 || !strings.Contains(out, "no permission") ||
			!strings.Contains(out, name) {
			t.Errorf("without %s: exit code %d\n%s", name, code, out)
		}
	}
	if n := rulesOfOurs(t); n != 0 {
		t.Errorf("%d rules of ours are in force", n)
	}
}

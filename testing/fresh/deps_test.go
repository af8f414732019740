//go:build linux

package fresh_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// bare is a machine that lacks what it has in /usr/sbin, nft among others, and
// has apt-get only if the test writes one to its directory bin. The disk is
// this machine's, so that what is written to /usr/sbin is gone in the end.
type bare struct {
	t   *testing.T
	dir string
}

func newBare(t *testing.T) bare {
	t.Helper()
	netlab.Require(t)
	netlab.RequireProgram(t, "unshare")
	b := bare{t, t.TempDir()}
	must(t, os.Chmod(filepath.Dir(b.dir), 0o755), os.Mkdir(b.dir+"/bin", 0o755), os.Mkdir(b.dir+"/netlab", 0o755))
	for name := range strings.FieldsSeq("cat chmod cp dirname grep id ls mktemp mount paste rm sh sort") {
		path, err := exec.LookPath(name)
		must(t, err, os.Symlink(path, filepath.Join(b.dir, "bin", name)))
	}
	// Whoever runs the script need not be able to enter this directory.
	for from, to := range map[string]string{"../deps": "deps", "../netlab/packages.txt": "netlab/packages.txt"} {
		text, err := os.ReadFile(from)
		must(t, err, os.WriteFile(filepath.Join(b.dir, to), text, 0o755))
	}
	return b
}

// deps runs the script where there are folders of the programs' names, and then
// what is to be seen of the machine.
func (b bare) deps(then string, env ...string) result {
	b.t.Helper()
	must(b.t, os.MkdirAll(b.dir+"/nft", 0o755), os.MkdirAll(b.dir+"/iptables", 0o755))
	unshare, err := exec.LookPath("unshare")
	must(b.t, err)
	cmd := exec.Command(unshare, "--mount", "sh", "-c", `mount -t tmpfs tmpfs /usr/sbin; `+then, b.dir+"/deps")
	cmd.Dir = b.dir
	cmd.Env = append(env, "PATH="+b.dir+"/bin:/usr/sbin", "TMPDIR="+b.dir)
	return run(b.t, cmd)
}

// aptGet has apt-get do something instead of an installation.
func (b bare) aptGet(install string) {
	b.t.Helper()
	script(b.t, b.dir+"/bin/apt-get", `case " $* " in *" install "*) ;; *) exit ;; esac; `+install)
}

const policy = "/usr/sbin/policy-rc.d"

// TestDepsNames: what cannot be installed is named by its package, once, with
// the reason; and it is a failure where every test must run.
func TestDepsNames(t *testing.T) {
	b := newBare(t)
	all := "containerd containernetworking-plugins curl dnsmasq-base haproxy iproute2 iptables libc-bin make nftables " +
		"openssl runc util-linux"
	if _, err := os.Stat("/usr/lib/cni/bridge"); err == nil {
		all = strings.Replace(all, "containernetworking-plugins ", "", 1)
	}
	names := "not installed: " + all + " (there is no apt-get here)"
	b.deps(`"$0" test`).want(t, "no apt-get", 0, names, "sudo apt-get install "+all+"\n")
	b.deps(`"$0" test`, "MESH_TEST_REQUIRE=1").want(t, "no apt-get, where it is needed", 1, names)

	b.aptGet(`echo "E: no network"; exit 100`)
	r := b.deps(`"$0" test; echo "code $?"; ls /usr/sbin`)
	r.want(t, "apt-get fails", 0, "installing "+all, "E: no network", "(apt-get failed)", "code 0")
	if strings.Contains(r.out, "policy-rc.d") {
		t.Error("policy-rc.d is left")
	}
	b.deps(`"$0" test`, "MESH_TEST_REQUIRE=1").want(t, "apt-get fails, where it is needed", 1)

	b.aptGet(`:`)
	b.deps(`"$0" test`, "MESH_TEST_REQUIRE=1").
		want(t, "packages that bring nothing", 1, "not installed: "+all, "apt-get succeeded")

	cmd := exec.Command(b.dir+"/deps", "test")
	cmd.Env = []string{"PATH=" + b.dir + "/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	run(t, cmd).want(t, "no root", 0, "not installed: ", "(root is needed)")
}

// TestDepsInstalls: services do not start meanwhile, and nothing is left of
// what forbids it. Where all is installed there is nothing to do and to say.
func TestDepsInstalls(t *testing.T) {
	b := newBare(t)
	const table = "# for package programs\ntest one first second\ntest two /usr/sbin/third\nrace three fourth\n"
	must(t, os.WriteFile(b.dir+"/netlab/packages.txt", []byte(table), 0o644))
	b.aptGet(`{ echo "$*"; ` + policy + `; echo "a service: $?"; } >/usr/sbin/log
		for p in first second third; do cp "$0" /usr/sbin/$p; done`)
	const see = `"$0" test; echo "code $?"; ls /usr/sbin; cat /usr/sbin/log`
	const after = "installing one two\ncode 0\nfirst\nlog\nsecond\nthird\n"
	b.deps(see).want(t, "an installation", 0, after, " install -y --no-install-recommends one two\na service: 101\n")
	b.deps(`"$0" test >/dev/null; echo again; "$0" test; echo "code $?"`).want(t, "once more", 0, "again\ncode 0\n")

	theirs := `printf '#!/bin/sh\nexit 0\n' >` + policy + `; chmod +x ` + policy + `; `
	b.deps(theirs+see).want(t, "a policy that is somebody else's", 0, "log\npolicy-rc.d\n", "a service: 0\n")

	// A script that is killed leaves its policy. The next one knows it.
	next, err := os.ReadFile(b.dir + "/bin/apt-get")
	must(t, err, os.WriteFile(b.dir+"/next", next, 0o755))
	b.aptGet(`kill -9 $PPID`)
	b.deps(`"$0" test; echo "code $?"; ls /usr/sbin; cp next bin/apt-get; `+see).
		want(t, "after one that was killed", 0, "code 137\npolicy-rc.d\n", after, "a service: 101\n")
}

//go:build linux

package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

// TestMain lets a test start this binary again, to become a container's
// process.
func TestMain(m *testing.M) {
	text, ok := os.LookupEnv(containerVariable)
	if !ok {
		m.Run()
		return
	}
	var c container
	err := json.Unmarshal([]byte(text), &c)
	if err == nil {
		err = c.become(os.Args[1:])
	}
	fmt.Fprintln(os.Stderr, "container:", err)
	os.Exit(1)
}

const containerVariable = "E2E_TEST_CONTAINER"

// container is an image and what its process may do.
type container struct {
	Root         string    // read-only
	Capabilities []uintptr // and no others
	// UID and GID are those of its process: root's, if they are 0.
	UID, GID int
	// Privileged is whether it may write sysctls.
	Privileged bool
	// Env is its environment, besides PATH.
	Env []string
}

// become makes this process the container's, as a runtime does: its root is the
// image, /proc shows its processes alone, and it has and can get no more than
// its capabilities. It returns if that fails.
func (c container) become(args []string) error {
	runtime.LockOSThread() // capabilities are the thread's, and the program gets this one's
	readOnly := func(path string) error {
		return errors.Join(
			unix.Mount(path, path, "", unix.MS_BIND, ""),
			unix.Mount("", path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	}
	proc := filepath.Join(c.Root, "proc")
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return readOnly(c.Root) },
		func() error { return unix.Mount("proc", proc, "proc", 0, "") },
		func() error {
			if c.Privileged {
				return nil
			}
			return readOnly(filepath.Join(proc, "sys"))
		},
		func() error { return unix.Chdir(c.Root) },
		func() error { return unix.PivotRoot(".", ".") }, // pivot_root(2): the old root lies over the new one
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return unix.Chdir("/") },
		func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	// What is not in the bounding set root does not get when it starts a program
	// (capabilities(7)).
	for capability := range uintptr(unix.CAP_LAST_CAP + 1) {
		if slices.Contains(c.Capabilities, capability) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			return fmt.Errorf("drop capability %d: %w", capability, err)
		}
	}
	if c.UID != 0 || c.GID != 0 {
		// As runc does: the capabilities stay permitted until the program starts, and go then, unless its file has them.
		var held [2]unix.CapUserData
		for _, capability := range c.Capabilities {
			held[capability/32].Permitted |= 1 << (capability % 32)
			held[capability/32].Effective |= 1 << (capability % 32)
		}
		if err := errors.Join(unix.Setgroups(nil), unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0),
			unix.Setresgid(c.GID, c.GID, c.GID), unix.Setresuid(c.UID, c.UID, c.UID),
			unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &held[0])); err != nil {
			return err
		}
	}
	return unix.Exec(args[0], args, append([]string{"PATH=/usr/sbin:/usr/bin"}, c.Env...))
}

// run runs mesh-init in the container, in the network namespace of the lab's
// pod. It returns what it prints, errors included, and its exit code.
func (c container) run(t *testing.T, lab *netlab.Lab, args ...string) (string, int) {
	t.Helper()
	return c.start(t, lab, append([]string{"/mesh-init"}, args...)...)
}

// start is run with the program's path before its arguments.
func (c container) start(t *testing.T, lab *netlab.Lab, args ...string) (string, int) {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{containerVariable + "=" + string(text)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := lab.Pod.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() < 0 {
		t.Fatalf("%v: %v\n%s", args, err, &out)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// expect runs mesh-init and checks its exit code, and that it says the words.
func (c container) expect(t *testing.T, lab *netlab.Lab, code int, words []string, args ...string) {
	t.Helper()
	out, got := c.run(t, lab, args...)
	if got != code {
		t.Fatalf("mesh-init %s: exit code %d, not %d\n%s", strings.Join(args, " "), got, code, out)
	}
	text := strings.Join(strings.Fields(out), " ") // as if no line were broken
	for _, w := range words {
		if !strings.Contains(out, w) && !strings.Contains(text, w) {
			t.Errorf("mesh-init %s: lacks %q\n%s", strings.Join(args, " "), w, out)
		}
	}
}

// scratch makes an image that has mesh-init alone, and a directory to mount
// /proc at.
func scratch(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := meshInit()
	if err == nil {
		err = writeProgram(filepath.Join(root, "mesh-init"), program)
	}
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// meshInit builds mesh-init as the Makefile does, once.
var meshInit = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	output := filepath.Join(dir, "mesh-init")
	if err := program.Build(output, "cmd/mesh-init"); err != nil {
		return nil, err
	}
	return os.ReadFile(output)
})

// withIPTables adds iptables-legacy to an image: the program, its names, the
// libraries that the dynamic linker finds for it, and its extensions.
func withIPTables(t *testing.T, root string) {
	t.Helper()
	const program = "xtables-legacy-multi"
	netlab.RequireProgram(t, program)
	netlab.RequireProgram(t, "ldd")
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	add(t, root, path, filepath.Join("/usr/sbin", program))
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, name := range []string{"-legacy", "-legacy-save", "-legacy-restore"} {
			if err := os.Symlink(program, filepath.Join(root, "usr/sbin", family+name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	list, err := exec.Command("ldd", path).Output()
	if err != nil {
		t.Fatalf("ldd: %v", err)
	}
	for word := range strings.FieldsSeq(string(list)) {
		if filepath.IsAbs(word) {
			add(t, root, word, word)
		}
	}
	var extensions int
	for _, pattern := range []string{"/usr/lib/*/xtables", "/usr/lib*/xtables"} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range dirs {
			if err := os.CopyFS(filepath.Join(root, dir), os.DirFS(dir)); err != nil && !errors.Is(err, fs.ErrExist) {
				t.Fatal(err)
			}
			extensions++
		}
	}
	if extensions == 0 {
		t.Fatal("there are no extensions of iptables in /usr/lib")
	}
}

// add copies a program or library into an image.
func add(t *testing.T, root, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	to = filepath.Join(root, to)
	err = os.MkdirAll(filepath.Dir(to), 0o755)
	if err == nil {
		err = os.WriteFile(to, content, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// captured are flows that a pod's default rules redirect, and to where.
func captured() map[netlab.Flow]uint16 {
	toApp6 := netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort("[fd00:244::5]:8080"),
		From: netlab.FromPeer}
	return map[netlab.Flow]uint16{outside: 15001, outside6: 15001, service: 15006, toApp6: 15006}
}

// fates checks that flows meet the rules, or none.
func fates(t *testing.T, lab *netlab.Lab, intercepted bool) {
	t.Helper()
	for f, port := range captured() {
		want := intercept.Fate{}
		if intercepted {
			want = intercept.RedirectedTo(port)
		}
		if got, err := lab.Send(f); err != nil || got.Fate != want {
			t.Errorf("%s: %s, %v; want %s", f, got, err, want)
		}
	}
}

// newSidecarPod makes a lab with a sidecar that is the lab's own, and no rules.
func newSidecarPod(t *testing.T) *netlab.Lab {
	t.Helper()
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	return lab
}

// TestImageWithIPTables: an init container with iptables-legacy, a read-only
// root file system, and no capabilities but NET_ADMIN and NET_RAW. There is no
// place for the lock that iptables-legacy takes.
func TestImageWithIPTables(t *testing.T) {
	t.Parallel()
	netlab.Require(t)
	root := scratch(t)
	withIPTables(t, root)
	c := container{Root: root, Capabilities: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}}
	for _, run := range []string{"no /run", "read-only /run"} {
		t.Run(run, func(t *testing.T) {
			if run == "read-only /run" {
				if err := os.Mkdir(filepath.Join(root, "run"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			lab := newSidecarPod(t)
			fates(t, lab, false)
			c.expect(t, lab, 10, nil, "check", "--backend", "iptables-legacy")
			c.expect(t, lab, 0, []string{"created: ", " by iptables-legacy "}, "apply", "--backend", "iptables-legacy")
			fates(t, lab, true)
			c.expect(t, lab, 0, []string{"unchanged: "}, "apply", "--backend", "iptables-legacy")
			// Of the two variants it has one, which it may not try: that takes
			// a namespace of its own.
			c.expect(t, lab, 0, []string{"unchanged: ", " by iptables-legacy ", "after iptables-nft was found to be unable"},
				"apply", "--backend", "iptables")
			c.expect(t, lab, 0, []string{"ok"}, "check", "--backend", "iptables-legacy")
			c.expect(t, lab, 0, []string{" O12 ", " I7 "}, "status", "-o", "wide")
			c.expect(t, lab, 0, []string{"removed"}, "remove")
			fates(t, lab, false)
			c.expect(t, lab, 10, nil, "status")
		})
	}

	// Without CAP_NET_RAW iptables-restore fails, and without CAP_NET_ADMIN nobody gets that far.
	for only, word := range map[uintptr]string{
		unix.CAP_NET_ADMIN: "CAP_NET_ADMIN and CAP_NET_RAW", unix.CAP_NET_RAW: "it takes CAP_NET_ADMIN",
	} {
		lab := newSidecarPod(t)
		container{Root: root, Capabilities: []uintptr{only}}.expect(t, lab, 13, []string{word}, "apply", "--backend",
			"iptables-legacy")
		c.expect(t, lab, 10, nil, "status")
	}
}

// TestImageFromScratch: an init container that has mesh-init alone, and no
// capability but NET_ADMIN. What takes a program names it.
func TestImageFromScratch(t *testing.T) {
	t.Parallel()
	lab := newSidecarPod(t)
	c := container{Root: scratch(t), Capabilities: []uintptr{unix.CAP_NET_ADMIN}}

	c.expect(t, lab, 12, []string{"iptables-legacy-restore", "use the backend nft"}, "apply", "--backend",
		"iptables-legacy")
	c.expect(t, lab, 12, []string{"iptables-nft-restore", "use the backend nft"}, "apply", "--backend", "iptables-nft")
	c.expect(t, lab, 12, []string{"no backend works here", "iptables-nft-restore", "iptables-legacy-restore"}, "apply",
		"--backend", "iptables")
	without := container{Root: c.Root}
	for _, verb := range []string{"apply", "check"} {
		without.expect(t, lab, 13, []string{"CAP_NET_ADMIN"}, verb)
	}
	fates(t, lab, false)

	c.expect(t, lab, 0, []string{"apply takes nft: "}, "doctor")
	c.expect(t, lab, 0, []string{"created: ", " by nft "}, "apply")
	fates(t, lab, true)
	c.expect(t, lab, 0, []string{"unchanged: "}, "apply")
	c.expect(t, lab, 0, []string{"ok"}, "check")
	c.expect(t, lab, 0, []string{" O12 ", " I7 "}, "status", "-o", "wide")
	for _, verb := range []string{"apply", "check", "status", "remove"} {
		without.expect(t, lab, 13, []string{"CAP_NET_ADMIN"}, verb)
	}
	fates(t, lab, true)
	c.expect(t, lab, 0, []string{"removed"}, "remove")
	fates(t, lab, false)
}

//go:build linux

package dataplane

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestPaths: what is no network namespace is refused by name, and opening it
// does not hang.
func TestPaths(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, remedy := range map[string]string{
		file:                           "/run/netns/NAME",
		fifo:                           "/run/netns/NAME",
		dir:                            "/run/netns/NAME",
		filepath.Join(dir, "gone"):     "no such file",
		"/proc/self/ns/mnt":            "/run/netns/NAME",
		"/proc/self/ns/net/impossible": "not a directory",
	} {
		_, err := Pod{NetNS: path}.Check(t.Context(), intercept.Default())
		if !errors.Is(err, ErrNotNetNS) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), remedy) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestHostRefused: the namespace the system booted with is refused by every
// verb, by its path too. Nothing here could write to it: the verb that comes
// first only reads, and has to be refused.
func TestHostRefused(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/core/dev_weight"); err != nil {
		netlab.Skip(t, "this process is not in the host's network namespace")
	}
	for _, path := range []string{"", "/proc/self/ns/net"} {
		if path != "" {
			netlab.Require(t) // entering a namespace takes privilege
		}
		target := Pod{NetNS: path}
		if _, err := target.Check(t.Context(), intercept.Default()); !errors.Is(err, ErrHostNetNS) ||
			!strings.Contains(err.Error(), "the whole node") {
			t.Fatalf("Check: %v", err)
		}
		if _, err := target.Apply(t.Context(), intercept.Default()); !errors.Is(err, ErrHostNetNS) {
			t.Errorf("Apply: %v", err)
		}
		if _, err := target.Remove(t.Context()); !errors.Is(err, ErrHostNetNS) {
			t.Errorf("Remove: %v", err)
		}
		if _, err := target.Status(t.Context()); !errors.Is(err, ErrHostNetNS) {
			t.Errorf("Counters: %v", err)
		}
	}
}

// TestLifecycle goes through the verbs, and counts a packet.
func TestLifecycle(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		t.Fatal(err)
	}
	target, c := Pod{NetNS: lab.Pod.Path()}, intercept.Default()
	if _, err := target.Check(t.Context(), c); !errors.Is(err, intercept.ErrNotIntercepted) {
		t.Fatalf("Check before Apply: %v", err)
	}
	for _, want := range []intercept.Outcome{intercept.Created, intercept.Unchanged} {
		got, err := target.Apply(t.Context(), c)
		if err != nil || got.Outcome != want || got.Backend != BackendNFT || got.Reason == "" || len(got.Warnings) > 0 {
			t.Fatalf("Apply: %+v, %v; want %s", got, err, want)
		}
	}
	if diffs, err := target.Check(t.Context(), c); err != nil || len(diffs) > 0 {
		t.Fatalf("Check: %v, %v", diffs, err)
	}
	for _, dst := range []string{"203.0.113.10:80", "[2001:db8::10]:80", "[2001:db8::10]:81"} {
		f := netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(dst),
			Owner: &intercept.Owner{UID: 1000, GID: 1000}}
		if got, err := lab.Send(f); err != nil || got.Fate != intercept.RedirectedTo(15001) {
			t.Fatalf("%s: %s, %v", f, got, err)
		}
	}
	status, err := target.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]uint64{}
	for _, k := range status.Counters {
		counted[k.Line] += k.Packets
	}
	if counted["O12"] != 3 || counted["O10"] != 0 {
		t.Errorf("counted %v", counted)
	}
	if removed, err := target.Remove(t.Context()); err != nil || !removed {
		t.Fatalf("Remove: %v, %v", removed, err)
	}
}

// TestWarnings: capturing one family alone is said to be a way past the proxy
// where it is one.
func TestWarnings(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	for families, address := range map[intercept.Families]string{
		intercept.FamiliesIPv4: "fd00:244::5",
		intercept.FamiliesIPv6: "10.244.0.5",
		intercept.FamiliesDual: "",
	} {
		c := intercept.Default()
		c.Families = families
		got, err := Pod{NetNS: lab.Pod.Path()}.Apply(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		warning := strings.Join(got.Warnings, "\n")
		if !strings.Contains(warning, address) || address == "" && warning != "" {
			t.Errorf("%s: %q", families, warning)
		}
	}
	// Where there is no such address there is nothing to warn of.
	empty, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	c := intercept.Default()
	c.Families = intercept.FamiliesIPv4
	if got, err := (Pod{NetNS: empty.Path()}).Apply(t.Context(), c); err != nil || len(got.Warnings) > 0 {
		t.Errorf("%v, %v", got.Warnings, err)
	}
}

// TestOtherNames: an interface that is called by another name than the rules know it by is said to be.
func TestOtherNames(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	err := lab.Pod.Do(func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkAddAltName(eth0, "enp0s3")
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{{"enp0s3"}, {"enp0*"}, {"eth0"}, {"e*"}, {"enp0s4"}, nil} {
		for _, virtual := range []bool{false, true} {
			c := intercept.Default()
			if virtual {
				c.VirtualInterfaces = names
			} else {
				c.ExcludeInterfaces = names
			}
			got, err := Pod{NetNS: lab.Pod.Path()}.Apply(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			warned := slices.ContainsFunc(got.Warnings, func(w string) bool {
				return strings.Contains(w, "another name (altname) of the interface eth0: rules know it as eth0 alone")
			})
			if warned != (names != nil && slices.Contains([]string{"enp0s3", "enp0*"}, names[0])) {
				t.Errorf("%v, virtual: %v: %q", names, virtual, got.Warnings)
			}
		}
	}
}

// TestThreadsComeBack: threads that looked into a namespace are back in their
// own once the session is closed, whatever happened inside.
func TestThreadsComeBack(t *testing.T) {
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			s, err := Open(t.Context(), Pod{NetNS: ns.Path()})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.do(t.Context(), func() error { return errors.New("on purpose") }); err == nil ||
				err.Error() != "on purpose" {
				t.Errorf("do: %v", err)
			}
			inside := ""
			err = s.do(t.Context(), func() (err error) {
				inside, err = os.Readlink("/proc/thread-self/ns/net")
				return err
			})
			if err != nil || inside == own {
				t.Errorf("inside is %s, outside %s, %v", inside, own, err)
			}
			if now, err := os.Readlink("/proc/self/ns/net"); err != nil || now != own {
				t.Errorf("meanwhile the process is in %s, %v", now, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	for _, task := range tasks {
		if link, err := os.Readlink(task); err == nil && link != own {
			t.Errorf("%s is %s, not %s", task, link, own)
		}
	}
}

// concrete are the backends that are not a choice among others.
func concrete() (all []Backend) {
	for _, b := range backends() {
		all = append(all, b.name)
	}
	return all
}

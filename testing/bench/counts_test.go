//go:build linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/testing/faults"
	"github.com/mesh-intercept/intercept/testing/netlab"
	"github.com/mesh-intercept/intercept/testing/program"
)

// limits is what a run may ask of the kernel: counts, which are the same on a busy machine as on a quiet one.
//
// Where a run needs more for a reason, write here what the test says that it takes. Where one comes to need less, the
// test says so when it is run with -v: write that, so that the gain is kept.
type limits struct {
	calls  int // system calls, but for those that Go's runtime makes by itself
	sent   int // bytes to sockets
	faults int // minor page faults beyond those of a hello world: of memory that it takes, and of its own code
}

// A run is one row.
type run struct {
	name   string
	before []string // runs that come before it in the same namespace
	run    string   // mesh-init's arguments, or a call of mesh-cni
	limits
}

func (r run) isPlugin() bool { return r.run == cniMeshed || r.run == cniOther || r.run == cniVersion }

// TestCounts holds whole runs of mesh-init and mesh-cni to what they ask of the kernel.
func TestCounts(t *testing.T) {
	netlab.Require(t)
	netlab.RequireProgram(t, "nsenter")
	dir := t.TempDir()
	for _, name := range []string{"mesh-init", "mesh-cni"} {
		if err := program.Build(filepath.Join(dir, name), "cmd/"+name); err != nil {
			t.Fatal(err)
		}
	}
	buildHello(t, filepath.Join(dir, "hello"))
	for _, tt := range []run{
		{"version", nil, "version", limits{22, 0, 150}},
		{"apply", nil, "apply", limits{111, 30820, 400}},
		{"apply again", []string{"apply"}, "apply", limits{135, 708, 420}},
		{"remove", []string{"apply"}, "remove", limits{150, 608, 250}},
		{"remove nothing", nil, "remove", limits{133, 412, 220}},
		{"explain", nil, "explain --dst 192.0.2.1:80", limits{22, 0, 230}},
		{"render", nil, "render", limits{22, 0, 330}},
		{"ADD of a pod in the mesh", nil, cniMeshed, limits{113, 30780, 400}},
		{"ADD of another pod", nil, cniOther, limits{27, 0, 130}},
		{"VERSION", nil, cniVersion, limits{20, 0, 110}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			plain := "hello"
			if tt.isPlugin() {
				plain = helloOutside
			}
			var got limits
			faults, base := 1<<30, 1<<30 // the least of some runs: where threads come to run makes a few more
			for range 5 {
				ns, err := netlab.NewNamespace()
				if err != nil {
					t.Fatal(err)
				}
				for _, run := range tt.before {
					count(t, ns, dir, run)
				}
				got = count(t, ns, dir, tt.run)
				faults, base = min(faults, got.faults), min(base, count(t, ns, dir, plain).faults)
				if err := ns.Close(); err != nil {
					t.Fatal(err)
				}
			}
			got.faults = faults - base
			t.Logf("limits{%d, %d, %d}", got.calls, got.sent, got.faults)
			// A tenth is for other kernels. How they give memory, by the page or by more, makes more of a difference.
			if most := tt.calls + tt.calls/10 + 2; got.calls > most {
				t.Errorf("%d system calls, over %d", got.calls, most)
			}
			if most := tt.sent + tt.sent/10; got.sent > most {
				t.Errorf("%d bytes sent, over %d", got.sent, most)
			}
			if most := tt.faults + tt.faults/3 + 40; got.faults > most {
				t.Errorf("%d page faults, over %d", got.faults, most)
			}
		})
	}
}

// Runs that are none of mesh-init: calls of mesh-cni, and a hello world outside of the namespace.
const (
	cniMeshed  = "ADD true"
	cniOther   = "ADD false"
	cniVersion = "VERSION"

	helloOutside = "hello outside"
)

// count runs a program in a namespace, and returns what it took.
func count(t *testing.T, ns *netlab.Namespace, dir, run string) limits {
	t.Helper()
	// nsenter becomes the program. It has as many page faults each time.
	inside := func(program string, args ...string) *exec.Cmd {
		return exec.Command("nsenter", append([]string{"--net=" + ns.Path(), "--", filepath.Join(dir, program)}, args...)...)
	}
	cmd := inside("mesh-init", strings.Fields(run)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	switch run {
	case "hello":
		cmd = inside("hello")
	case helloOutside:
		cmd = exec.Command(filepath.Join(dir, "hello"))
	case cniMeshed, cniOther, cniVersion:
		command, enabled, _ := strings.Cut(run, " ")
		cmd = exec.Command(filepath.Join(dir, "mesh-cni"))
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, "CNI_COMMAND="+command, "CNI_CONTAINERID=0123456789ab",
			"CNI_NETNS="+ns.Path(), "CNI_IFNAME=eth0", "CNI_PATH="+dir)
		cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "pods", "type": "mesh-cni",
			"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"intercept.mesh/enabled": %q}},
			"prevResult": {"cniVersion": "1.0.0", "interfaces": [], "ips": []}}`, enabled))
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	var c faults.Counter
	if err := c.Run(cmd); err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &out)
	}
	usage, is := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !is {
		t.Fatal("the kernel does not say what the program has used")
	}
	return limits{c.Calls, c.Sent, int(usage.Minflt)}
}

// TestAllocations holds calls of the library to how often, and how much, they allocate. The numbers are those that it
// prints with -v, to change as those of TestCounts.
func TestAllocations(t *testing.T) {
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	pod, c := dataplane.Pod{NetNS: ns.Path(), Backend: dataplane.BackendNFT}, intercept.Default()
	apply := func() error {
		_, err := pod.Apply(t.Context(), c)
		return err
	}
	rs, err := intercept.Compile(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name           string
		before, call   func() error
		objects, bytes uint64
	}{
		{"Compile", nil, func() error {
			_, err := intercept.Compile(c)
			return err
		}, 425, 30_000},
		{"Lint", nil, func() error {
			intercept.Lint(c)
			return nil
		}, 950, 66_000},
		{"Render", nil, func() error {
			_, err := pod.Render(rs)
			return err
		}, 2400, 155_000},
		{"Apply", func() error {
			_, err := pod.Remove(t.Context())
			return err
		}, apply, 7400, 760_000},
		{"Apply again", apply, apply, 7900, 780_000},
		{"Check", apply, func() error {
			_, err := pod.Check(t.Context(), c)
			return err
		}, 6700, 690_000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var objects, bytes uint64 = 1 << 63, 1 << 63
			for range 5 { // what others in this process allocate meanwhile is not always there
				if tt.before != nil {
					if err := tt.before(); err != nil {
						t.Fatal(err)
					}
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				if err := tt.call(); err != nil {
					t.Fatal(err)
				}
				runtime.ReadMemStats(&after)
				objects, bytes = min(objects, after.Mallocs-before.Mallocs), min(bytes, after.TotalAlloc-before.TotalAlloc)
			}
			t.Logf("%d, %d", objects, bytes)
			if most := tt.objects + tt.objects/4; objects > most {
				t.Errorf("%d objects, over %d", objects, most)
			}
			if most := tt.bytes + tt.bytes/4; bytes > most {
				t.Errorf("%d bytes, over %d", bytes, most)
			}
		})
	}
}

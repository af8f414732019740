package sandbox

import (
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/internal/netns"
)

// FuzzProc holds that no name of a process or a cgroup makes a panic, and that a
// pod's UID is one that stands there.
func FuzzProc(f *testing.F) {
	f.Add("0::/kubepods/besteffort/pod"+uid+"/3f2a\n", "7 (a) b) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0")
	f.Add("12:pids:/kubepods-pod"+strings.ReplaceAll(uid, "-", "_")+".slice\n", "7 (a) Z")
	f.Add("0::/pod0123456789abcdef0123456789abcdef:/x", ")")
	f.Fuzz(func(t *testing.T, cgroup, stat string) {
		if got := netns.PodUID(cgroup); got != "" && (len(got) != 36 && len(got) != 32 ||
			strings.Trim(got, "0123456789abcdef-") != "" || !strings.Contains(strings.ReplaceAll(cgroup, "_", "-"), got)) {
			t.Fatalf("%q: %q", cgroup, got)
		}
		if ticks, alive := startTime([]byte(stat)); !alive && ticks != 0 {
			t.Fatalf("%q: %d", stat, ticks)
		}
	})
}

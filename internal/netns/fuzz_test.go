//go:build linux

package netns

import (
	"errors"
	"strings"
	"testing"
)

// FuzzSpec holds that whatever a namespace is called, it is a path or an error that
// names it.
func FuzzSpec(f *testing.F) {
	for _, seed := range []string{"web", "/run/netns/web", "pid:1", "pid:-1", "..", "containerd://x", "container:",
		"a://b/c", "\x00", "pid:1/../2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		if strings.HasPrefix(spec, "container:") || strings.Contains(spec, "://") {
			return // it is looked for among the processes: FuzzProcess
		}
		target, err := parse(spec)
		switch e, is := errors.AsType[*Error](err); {
		case err != nil && (!is || e.Spec != spec || e.Kind == Failed):
			t.Fatalf("%q: %v", spec, err)
		case err == nil && (!strings.Contains(target.path, "/") || target.spec != spec):
			t.Fatalf("%q: %+v", spec, target)
		}
	})
}

// FuzzProcess holds that no name of a process or a cgroup makes a panic, and that a
// container is one whose whole ID stands there.
func FuzzProcess(f *testing.F) {
	id := strings.Repeat("0123456789abcdef", 4)
	f.Add("7 (a) b) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0", "0::/kubepods/pod1/"+id+"\n")
	f.Add("7 (a)", "12:cpu:/docker-"+id+".scope/x\n::\n")
	f.Add(")", ":")
	f.Fuzz(func(t *testing.T, stat, cgroup string) {
		if ticks, alive := startTime(stat); !alive && ticks != 0 {
			t.Fatalf("%q: %d", stat, ticks)
		}
		path := containerCgroup(cgroup)
		if path == "" {
			return
		}
		if c := containerID(path); len(c) != idLength || !isHex(c) || !strings.Contains(cgroup, path) ||
			!strings.Contains(path, c) {
			t.Fatalf("%q: %q, %q", cgroup, path, c)
		}
	})
}

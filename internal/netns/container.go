//go:build linux

package netns

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/internal/procfile"
)

// A container's id has 64 hexadecimal digits, of which people write the first 12.
const idLength, shortIDLength = 64, 12

// findContainer finds a container's processes by their cgroups, which all
// runtimes name by the container's id. The library's GetFromDocker knows the
// directories of Docker alone, and needs Docker's PID file to find them; what
// /proc says about each process is the same for all runtimes, and for both versions
// of cgroups.
func findContainer(t target, id string) (target, error) {
	if !isHex(id) || len(id) < shortIDLength || len(id) > idLength {
		return t, t.no(Malformed, nil, "a container's id is %d to %d hexadecimal digits", shortIDLength, idLength)
	}
	pids, err := procfile.Processes()
	if err != nil {
		return t, failed("open", t, err, "")
	}
	var cgroups []string
	var first process
	for _, pid := range pids {
		p, cgroup := readProcess(pid)
		if !strings.HasPrefix(containerID(cgroup), id) {
			continue
		}
		if !slices.Contains(cgroups, cgroup) {
			cgroups = append(cgroups, cgroup)
		}
		// The oldest: those that the container started may have made themselves
		// namespaces, as browsers do.
		if first.pid == 0 || p.isBefore(first) {
			first = p
		}
	}
	switch {
	case len(cgroups) == 0:
		return t, t.no(Gone, nil, "no process seen here is in the cgroup of this container; the pod may be gone, "+
			"or on another node; a pod has to have hostPID: true to see the processes of others")
	case len(cgroups) > 1:
		slices.Sort(cgroups)
		return t, t.no(Ambiguous, nil, "these are containers of this id: %s", strings.Join(cgroups, ", "))
	}
	t.path, t.owner = pathOf(first.pid), first
	return t, nil
}

// process is a process and when it was started, in clock ticks since boot.
type process struct {
	pid     int
	started uint64
}

// isBefore goes by the number where a tick, of 10 ms, does not tell.
func (p process) isBefore(other process) bool {
	return cmp.Or(cmp.Compare(p.started, other.started), cmp.Compare(p.pid, other.pid)) < 0
}

// readProcess reads of a process when it was started, and the cgroup of the
// container it is in, or "". What has ended was never started, and is in none.
func readProcess(pid int) (p process, cgroup string) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return p, ""
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, ""
	}
	started, alive := startTime(string(stat))
	if !alive {
		return p, ""
	}
	return process{pid, started}, containerCgroup(string(text))
}

// startTime reads of /proc/PID/stat when the process was started, and whether it
// has not ended.
func startTime(stat string) (ticks uint64, alive bool) {
	// The name of the program, in parentheses, may hold anything. The start is
	// the 20th field behind it (proc_pid_stat(5)).
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) < 20 || fields[0] == "Z" { // which has no namespace any more
		return 0, false
	}
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	return ticks, err == nil
}

// containerCgroup returns the path of the innermost container's cgroup of what
// /proc/PID/cgroup says, or "". Lines are HIERARCHY:CONTROLLERS:PATH.
func containerCgroup(text string) string {
	for line := range strings.Lines(text) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		_, path, _ := strings.Cut(rest, ":")
		for ; path != ""; path = path[:max(0, strings.LastIndex(path, "/"))] {
			if containerID(path) != "" {
				return path
			}
		}
	}
	return ""
}

// containerID returns the id of the container of which this is the cgroup, or
// "". The last part of the path is, with its id at the end, as of the driver
// cgroupfs ID, as of systemd cri-containerd-ID.scope, docker-ID.scope,
// crio-ID.scope, libpod-ID.scope; and with neither SLICE:cri-containerd:ID.
// What Podman and CRI-O call conmon watches over a container, from outside.
func containerID(cgroup string) string {
	name := strings.TrimSuffix(cgroup[strings.LastIndex(cgroup, "/")+1:], ".scope")
	prefix := name[:max(0, len(name)-idLength)]
	id := name[len(prefix):]
	apart := prefix == "" || strings.HasSuffix(prefix, "-") || strings.HasSuffix(prefix, ":")
	if len(id) < idLength || !isHex(id) || !apart || strings.HasSuffix(prefix, "conmon-") {
		return ""
	}
	return id
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}

package sockets

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/mesh-intercept/intercept/internal/procfile"
)

// Beside returns a process of the calling thread's network namespace of which is says yes, and which is in another
// container (mount namespace) than all of the processes with the given IDs. It sees what /proc shows: in a pod that is
// mostly the caller's own container. PID 0: there is none, or nobody can tell.
func Beside(others []int, is func(Process) bool) Process {
	here, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return Process{}
	}
	var containers []string
	for _, pid := range others {
		mounts, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/mnt"))
		if err != nil {
			return Process{} // it has ended, or is hidden: whoever is like it would look like a stranger
		}
		containers = append(containers, mounts)
	}
	pids, err := procfile.Processes()
	if err != nil {
		return Process{}
	}
	for _, pid := range pids {
		if pid == os.Getpid() {
			continue
		}
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		if net, err := os.Readlink(filepath.Join(dir, "ns/net")); err != nil || net != here {
			continue
		}
		mounts, err := os.Readlink(filepath.Join(dir, "ns/mnt"))
		if err != nil || slices.Contains(containers, mounts) {
			continue
		}
		if p, ok := process(dir, pid); ok && is(p) {
			return p
		}
	}
	return Process{}
}

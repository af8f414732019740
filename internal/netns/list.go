//go:build linux

package netns

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/procfile"
)

// kept are the directories in which files keep namespaces by name. On most machines they are one and the same.
func kept() []string { return []string{names, "/var/run/netns/"} }

// inode is what two files of one namespace have in common.
type inode struct{ dev, ino uint64 }

// inodeOf returns that of a file of a namespace.
func inodeOf(path string) (inode, error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return inode{}, err
	}
	return inode{s.Dev, s.Ino}, nil
}

// mostReads is of how many processes of a namespace the control group is read. The first of a pod says whose it is, and
// the node's own namespace has thousands of none.
const mostReads = 32

// List finds the network namespaces of this machine: those of all processes that can be seen, and those that "ip netns"
// and container runtimes keep as files. Each is there once. hidden is how many processes could not be looked at, for want
// of CAP_SYS_PTRACE. A list may be old when it is read: see [Found.IsThere].
func List() (all []Found, hidden int, err error) {
	byInode := map[inode]*Found{}
	at := func(id inode) *Found {
		if byInode[id] == nil {
			byInode[id] = &Found{id: id}
		}
		return byInode[id]
	}
	for _, dir := range kept() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // there are none
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			var fs unix.Statfs_t
			if unix.Statfs(path, &fs) != nil || fs.Type != unix.NSFS_MAGIC {
				continue // what a namespace has left behind, or somebody's file
			}
			id, err := inodeOf(path)
			if err != nil {
				continue // it has just gone
			}
			if f := at(id); f.Path == "" {
				f.Path = path
			}
		}
	}
	pids, err := procfile.Processes()
	if err != nil {
		return nil, 0, err
	}
	reads := map[inode]int{}
	for _, pid := range pids {
		id, err := inodeOf(pathOf(pid))
		switch {
		case os.IsPermission(err):
			hidden++
			continue
		case err != nil:
			continue // it has just ended, or it is a kernel's
		}
		f := at(id)
		if f.PodUID == "" && reads[id] < mostReads {
			reads[id]++
			f.add(pid)
		}
	}
	for _, f := range byInode {
		if f.PID != 0 {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", f.PID)) // it may have ended
			f.Process = strings.TrimSuffix(string(comm), "\n")
		}
		all = append(all, *f)
	}
	return all, hidden, nil
}

// add takes a process into account: one of a pod says more of a namespace than one of a container, and that more than
// others.
func (f *Found) add(pid int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return // it has just ended
	}
	uid, container := PodUID(string(text)), containerID(containerCgroup(string(text)))
	if f.PID == 0 || uid != "" || f.Container == "" && container != "" {
		f.PID, f.PodUID, f.Container = pid, uid, container
	}
}

// IsThere reports whether the namespace is still what [Found.Spec] opens.
func (f Found) IsThere() bool {
	path := f.Path
	if f.PID != 0 {
		path = pathOf(f.PID)
	}
	id, err := inodeOf(path)
	return err == nil && id == f.id
}

// Hostname returns the name of the machine as the namespace's process sees it, or "" if that is this process's own or
// cannot be told. Of a pod it is mostly the pod's name. It takes CAP_SYS_ADMIN.
func (f Found) Hostname() (name string) {
	if f.PID == 0 {
		return ""
	}
	path := fmt.Sprintf("/proc/%d/ns/uts", f.PID)
	own, err := inodeOf("/proc/thread-self/ns/uts")
	if other, failed := inodeOf(path); err != nil || failed != nil || other == own {
		return ""
	}
	_ = apart(func() (err error, restored bool) { // the thread ends there
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err, true
		}
		defer func() { _ = unix.Close(fd) }() // opened for reading
		if err := unix.Setns(fd, unix.CLONE_NEWUTS); err != nil {
			return err, true
		}
		var u unix.Utsname
		if err := unix.Uname(&u); err != nil {
			return err, false
		}
		name = unix.ByteSliceToString(u.Nodename[:])
		return nil, false
	})
	return name
}

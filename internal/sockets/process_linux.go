package sockets

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/internal/procfile"
)

// Processes finds out who has sockets, by their inodes, as far as /proc shows it: processes of other containers, and
// those of other users without CAP_SYS_PTRACE, it does not. Of several that share a socket it is the first.
func Processes(inodes map[uint64]bool) map[uint64]Process {
	found := map[uint64]Process{}
	if len(inodes) == 0 {
		return found
	}
	pids, err := procfile.Processes()
	if err != nil {
		return found
	}
	for _, pid := range pids {
		if len(found) == len(inodes) {
			break
		}
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		files, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue
		}
		for _, f := range files {
			inode, ok := socketInode(filepath.Join(dir, "fd", f.Name()))
			if _, known := found[inode]; !ok || known || !inodes[inode] {
				continue
			}
			if p, ok := process(dir, pid); ok {
				found[inode] = p
			}
		}
	}
	return found
}

// socketInode reads the number of a socket from the link that stands for it: "socket:[4711]".
func socketInode(path string) (uint64, bool) {
	link, err := os.Readlink(path)
	number, ok := strings.CutPrefix(link, "socket:[")
	if err != nil || !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
	return inode, err == nil
}

// process reads the lines Name, Uid and Gid of /proc/PID/status (proc_pid_status(5)); the last of the IDs is that for
// files.
func process(dir string, pid int) (Process, bool) {
	p := Process{PID: pid}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return p, false
	}
	known := 0
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		ids := strings.Fields(value)
		switch name {
		case "Name":
			p.Name = strings.TrimSpace(value)
		case "Uid", "Gid":
			if len(ids) != 4 {
				return p, false
			}
			id, err := strconv.ParseUint(ids[3], 10, 32)
			if err != nil {
				return p, false
			}
			if known++; name == "Uid" {
				p.UID = uint32(id)
			} else {
				p.GID = uint32(id)
			}
		}
	}
	return p, known == 2
}

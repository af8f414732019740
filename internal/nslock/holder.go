package nslock

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// logGroupHolder names the process that is bound to the group. The kernel lists the port of its socket, and of all
// netlink sockets their ports and inodes. Ports are numbers that say nothing of the process.
func logGroupHolder() string {
	line := row("netfilter/nfnetlink_log", bound)
	if line == nil {
		return ""
	}
	socket := row("netlink", netlinkOf(line[1]))
	if socket == nil {
		return ""
	}
	return processWith(socket[9])
}

// socketHolder names the process that has the abstract UNIX socket.
func socketHolder() string {
	socket := row("unix", named)
	if socket == nil {
		return ""
	}
	return processWith(socket[6])
}

// row returns the fields of a line of a file in /proc/net, of the namespace of the calling thread.
func row(file string, is func(fields []string) bool) []string {
	text, err := os.ReadFile("/proc/thread-self/net/" + file)
	if err != nil {
		return nil
	}
	return rowOf(string(text), is)
}

func rowOf(text string, is func(fields []string) bool) []string {
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); is(fields) {
			return fields
		}
	}
	return nil
}

// bound tells a line of nfnetlink_log about the group; its second field is the port of a socket.
func bound(f []string) bool { return len(f) > 1 && f[0] == strconv.Itoa(group) }

// netlinkOf tells the line of a netlink socket with a port; its tenth field is an inode.
func netlinkOf(port string) func(f []string) bool {
	const netfilter = "12" // NETLINK_NETFILTER
	return func(f []string) bool { return len(f) > 9 && f[1] == netfilter && f[2] == port }
}

// named tells the line of the abstract UNIX socket; its seventh field is an inode.
func named(f []string) bool { return len(f) > 7 && f[7] == name }

// processWith returns the process that has the socket of an inode open.
func processWith(inode string) string {
	all, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well formed
	var pids []string
	for _, fd := range all {
		if target, err := os.Readlink(fd); err == nil && target == "socket:["+inode+"]" {
			pids = append(pids, strings.Split(fd, "/")[2])
		}
	}
	pid := first(pids)
	if pid == "" {
		return ""
	}
	comm, err := os.ReadFile("/proc/" + pid + "/comm")
	if err != nil {
		return "process " + pid
	}
	return fmt.Sprintf("process %s (%s)", pid, strings.TrimSpace(string(comm)))
}

// first returns, of processes that have the same file, one whose parent has it not: the others have it from that one,
// at the least until they run another program. It returns "" if there is none.
func first(pids []string) string {
	for _, pid := range pids {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may hold anything. The state and the parent follow it (proc_pid_stat(5)).
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) > 1 && !slices.Contains(pids, fields[1]) {
			return pid
		}
	}
	return ""
}

package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// hold takes hold of the pod's namespace, if CNI_NETNS leads to one: what is done later, after a wait for the agent, is
// done there, whatever the path leads to by then. A link may be turned, and the number of a process that has ended is
// another's. An open namespace does not end, and its inode is nobody else's. What cannot be opened is left to those who
// use it: they say what is wrong. release lets go of it.
func (in *input) hold() (release func()) {
	if !strings.Contains(in.netns, "/") {
		return func() {} // a name
	}
	fd, err := unix.Open(in.netns, unix.O_PATH|unix.O_CLOEXEC, 0) // which waits for nobody, and does nothing to a device
	if err != nil {
		return func() {}
	}
	in.held = os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd))
	return func() { _ = in.held.Close() } // it was only looked at
}

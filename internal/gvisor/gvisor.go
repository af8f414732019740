// Package gvisor tells whether the kernel is gVisor's, a kernel in user space with a network stack of its own. It has
// iptables-legacy alone, and little of it.
package gvisor

import (
	"strings"

	"github.com/mesh-intercept/intercept/internal/procfile"
)

// Here reports whether this process runs in gVisor. What cannot be found out is not so.
func Here() bool {
	version, err := procfile.Read("/proc/version")
	return err == nil && is(string(version))
}

// is tells by what /proc/version says. Releases named gVisor come from 2025 on; those before have the same date of a
// build as they, which no build of Linux has.
func is(version string) bool {
	return strings.Contains(version, "gvisor") || strings.Contains(version, "#1 SMP Sun Jan 10 15:06:54 PST 2016")
}

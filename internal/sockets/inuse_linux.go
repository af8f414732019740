package sockets

import (
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/gvisor"
	"github.com/mesh-intercept/intercept/internal/procfile"
)

// noneInUse reports whether the kernel counts no TCP socket in the namespace. To list them it looks through the table of
// the whole node's connections, of up to half a million places, once for each family: that took a seventh of an apply
// where there are none, as in an init container. False: there are some, or nothing is known of it.
func noneInUse() bool {
	if gvisor.Here() {
		return false
	}
	for _, count := range []struct{ file, of string }{{"sockstat", "TCP:"}, {"sockstat6", "TCP6:"}} {
		text, err := procfile.Read("/proc/thread-self/net/" + count.file)
		if err != nil || !countsNone(string(text), count.of) {
			return false
		}
	}
	return true
}

// countsNone reads a line such as "TCP: inuse 0 orphan 0 tw 0 alloc 7 mem 1" (net/ipv4/proc.c, net/ipv6/proc.c): what
// is in a table of sockets of the namespace, that which listens, too, and what has ended and waits. A request that no
// process has accepted yet is not counted, but what listens for it is. What is allocated is the whole node's.
func countsNone(text, of string) bool {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 3 || words[0] != of || words[1] != "inuse" {
			continue
		}
		waiting := slices.Index(words, "tw")
		return words[2] == "0" && (waiting < 0 || waiting+1 < len(words) && words[waiting+1] == "0")
	}
	return false
}

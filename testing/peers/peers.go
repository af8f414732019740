//go:build linux

// Package peers proves that the command lines of other meshes' programs mean the same to this project's.
//
// What a peer's program does to packets is told by its documented rules, which a function of the test's own writes
// from its flags. They are put into a laboratory's pod, flows are sent, and their fates recorded in a file: that is the
// oracle. [Peer.Test] then holds against it what this project makes of the same flags, on paper (Ruleset.Trace) and in
// the kernel, with every backend. Where it differs on purpose, a list says so.
package peers

import (
	"net/netip"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// Peer is a program of another mesh, and how it is stood in for.
type Peer struct {
	// Record is the file of the fates: testdata/NAME.
	Record string
	// Proxy is who the flows' "proxy" is.
	Proxy intercept.Owner
	// Sidecar is what listens in the pod where a set has none of its own.
	Sidecar netlab.SidecarConfig
	// Flows are sent under each set, one a line: "PROTOCOL WHO>ADDRESS:PORT".
	//
	// PROTOCOL is tcp or udp. WHO is peer (from outside), vm (from behind the pod), or in the pod root, app
	// (1000:1000), proxy, proxyuid and proxygid (of its user or group alone, else the app's), or UID:GID; after it in
	// parentheses may stand the source address. An address is a word of [netlab.Addresses], which stands for one of
	// each family, or an address; IPv6 in brackets.
	Flows []string
	// Sets are the command lines. The first is the one from which the record tells the others' differences.
	Sets []Set
	// Rules writes a set's documented rules, as commands that are run in the pod. It shares nothing with the program.
	Rules func(Set) []Command
	// Read is what is tested.
	Read func(args []string, w peers.World) (peers.Request, error)
	// Differences are where the program means something else on purpose.
	Differences []Difference
}

// Set is a command line, and what it is read in.
type Set struct {
	Name string
	Args []string
	// Before are command lines that ran earlier in the same pod.
	Before [][]string
	// Environ is as from os.Environ, Files what can be read, by name.
	Environ []string
	Files   map[string]string
	// Addresses are those that the program finds on the pod's interfaces. Nil: the laboratory's, 10.244.0.5 and
	// fd00:244::5.
	Addresses []netip.Addr
	// Sidecar is what listens in the pod. Nil: the peer's.
	Sidecar *netlab.SidecarConfig
	// Refused is a part of the error with which the program refuses the set. With --lenient, which is then added, it
	// has to accept it.
	Refused string
	// Why says why it is refused, as in the page on switching.
	Why string
}

// Command is a command that the peer's program would run.
type Command struct {
	Args  []string
	Stdin string
}

// Restore returns the commands that give text to iptables' programs of one variant (nft or legacy), IPv4's and
// IPv6's. Empty text gives none.
func Restore(variant, v4, v6 string) []Command {
	var commands []Command
	for _, f := range []struct{ program, text string }{{"iptables-", v4}, {"ip6tables-", v6}} {
		if f.text != "" {
			commands = append(commands, Command{[]string{f.program + variant + "-restore", "--noflush"}, f.text})
		}
	}
	return commands
}

// Difference says that flows meet another fate here than with the peer's program, on purpose. Of two that speak of the
// same flow the later one holds.
type Difference struct {
	// Sets and Flows are patterns as of [path.Match] of the names of sets and flows, several separated by ", ". A
	// flow's name has its family: "tcp4 app>outside:80".
	Sets, Flows string
	// Fate is ours, as Fate.String writes it. All flows that are meant have it, and some another there.
	Fate string
	// Like is the set whose recorded fates are ours here, in place of Fate.
	Like string
	// Reason says why, as in the page on switching.
	Reason string
}

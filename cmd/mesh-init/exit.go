package main

import (
	"errors"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/nft"
)

// The exit codes that are not tied to one error.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// errDrifted reports that check found differences.
var errDrifted = errors.New("drifted: the rules are not what this configuration makes")

// usageError marks what the caller has to correct.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// An exit is one way to end: its code, the error that leads to it, and what
// to do about it.
type exit struct {
	code    int
	err     error
	meaning string
	remedy  string
}

// exits is the one table of exit codes.
func exits() []exit {
	return []exit{
		{code: exitDone, meaning: "done"},
		{code: exitFailed, meaning: "failed"},
		{code: exitUsage, meaning: "bad usage or configuration; nothing was touched"},
		{10, nft.ErrNotIntercepted, "not intercepted: the namespace has none of our rules",
			"run mesh-init apply there, or name the pod's namespace with --netns"},
		{11, errDrifted, "drifted: check found differences",
			"run mesh-init apply with the same configuration to put them right"},
		{12, nft.ErrUnsupported, "the kernel lacks support",
			"load nf_tables, nft_chain_nat, nft_redir and nft_ct on the node (modprobe); Linux 5.2 is the first that has all it takes"},
		{13, nft.ErrPermission, "no permission",
			"run it as root with CAP_NET_ADMIN in the pod's network namespace (securityContext.capabilities.add: [NET_ADMIN], runAsUser: 0)"},
		{14, dataplane.ErrHostNetNS, "refused: the host's own network namespace",
			"run it in the pod (not hostNetwork: true) or name the pod's namespace with --netns; where a pod lives in its machine's own namespace, as in a Kata guest, --allow-host-netns permits it"},
		{15, nft.ErrForeign, "a table of our name that someone else made",
			"find out who made it; if nothing needs it: nft delete table inet " + nft.Table},
		{16, dataplane.ErrNotNetNS, "no network namespace at the path of --netns",
			"give a path such as /run/netns/NAME or /proc/PID/ns/net"},
	}
}

// exitFor returns the exit for an error: the table's first that it is.
func exitFor(err error) exit {
	all := exits()
	var usage usageError
	switch {
	case err == nil:
		return all[exitDone]
	case errors.As(err, &usage):
		return all[exitUsage]
	}
	for _, e := range all {
		if e.err != nil && errors.Is(err, e.err) {
			return e
		}
	}
	return all[exitFailed]
}

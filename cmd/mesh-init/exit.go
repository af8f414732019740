package main

import (
	"errors"
	"runtime"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
)

// errDrifted reports that check found differences.
var errDrifted = errors.New("drifted: the rules are not what this configuration makes")

// errNotVerified reports that verify found something that does not work.
var errNotVerified = errors.New("interception does not work as this configuration asks")

// errNotProven reports that nothing failed, and that not all could be tried.
var errNotProven = errors.New("not all of what this configuration asks is proven")

// errNoPacket reports that there was nothing to trace.
var errNoPacket = errors.New("no packet of the flow was seen")

// errTrouble reports that status --all found namespaces in trouble.
var errTrouble = errors.New("network namespaces in trouble")

// errFindings reports that lint found something.
var errFindings = errors.New("lint found what will go wrong")

// exits is the one table of exit codes.
func exits() []cli.Exit {
	exit := func(code int, err error, meaning, remedy string) cli.Exit {
		return cli.Exit{Code: code, Err: err, Meaning: meaning, Remedy: remedy}
	}
	lacking := "mesh-init doctor says what is missing and what mends it"
	if runtime.GOOS != "linux" {
		lacking = "on other systems mesh-init has explain and render --backend iptables"
	}
	none := exit(10, intercept.ErrNotIntercepted, "not intercepted: the namespace has none of our rules",
		"run mesh-init apply there, or name the pod's namespace with --netns")
	none.Instead = func(err error) string {
		if _, is := errors.AsType[*dataplane.OtherMeshError](err); is {
			return "mesh-init apply --" + takeOverFlag + " puts ours in their place, if this is the pod's namespace and the pod is " +
				"not to be of that mesh"
		}
		return ""
	}
	locked := exit(17, intercept.ErrLocked, "another program held a lock for the whole wait",
		"wait for it, or wait longer with --iptables-wait")
	locked.Instead = func(err error) string {
		if errors.Is(err, dataplane.ErrTraced) {
			return "wait until it ends"
		}
		return ""
	}
	return append(cli.CommonExits(), none,
		exit(11, errDrifted, "drifted: check found differences",
			"mesh-init apply with this configuration puts them right; with --"+liveFlag+", as they were applied"),
		exit(12, intercept.ErrUnsupported, "the kernel, or a program to write rules with, lacks support", lacking),
		exit(13, intercept.ErrPermission, "no permission", ""),
		exit(14, dataplane.ErrHostNetNS, "refused: the host's own network namespace, or a node's that is a container",
			"name the pod's namespace with --netns, or insist with --"+allowHostFlag),
		exit(15, intercept.ErrForeign, "a table or chain of our name that someone else made", ""),
		exit(16, dataplane.ErrNotNetNS, "there is no network namespace that --netns names", ""),
		locked,
		exit(18, errNotVerified, "verify found that interception does not work", ""),
		exit(19, errNotProven, "verify found nothing wrong, and could not prove everything",
			"verify says why; accept it with --allow-unproven"),
		exit(20, dataplane.ErrOtherMesh, "refused: rules of another mesh are in the namespace", ""),
		exit(21, errDiffers, "explain --diff found packets of another fate", ""),
		exit(22, errNoPacket, "trace saw no packet of the flow in its time",
			"make the connection while it runs, give it longer with --for, or leave out flags that describe the flow"),
		exit(23, errFindings, "lint found something in manifests that will go wrong", ""),
		exit(24, errTrouble, "status --all found a namespace that is not intercepted as it should be, or not seen", ""),
	)
}

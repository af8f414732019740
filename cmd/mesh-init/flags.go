package main

import (
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/iptables"
)

// The headings of the help that are not those of package decode.
const (
	groupSource decode.Group = "Configuration file"
	groupWhere  decode.Group = "Where and how"
	groupPacket              = explain.Group
)

// The flags that the code itself has to name.
const (
	allFlag        = "all"
	allowHostFlag  = "allow-host-netns"
	backendFlag    = "backend"
	besideFlag     = "beside"
	closeWaitFlag  = "close-wait"
	configFlag     = "config"
	diffFlag       = "diff"
	dryRunFlag     = "dry-run"
	dstFlag        = "dst"
	filenameFlag   = "filename"
	flowsFlag      = "flows"
	foreignFlag    = "foreign"
	takeOverFlag   = "take-over"
	kubernetesFlag = "kubernetes-version"
	linkFlag       = "link"
	liveFlag       = "live"
	logFormatFlag  = "log-format"
	matrixFlag     = "matrix"
	logLevelFlag   = "log-level"
	maskFlag       = "mask"
	timeoutFlag    = "timeout"

	terminationLogFlag = "termination-log"
	metricsFileFlag    = "metrics-file"

	hostIPsFlag    = "host-ips"
	modeFlag       = "inject-mode"
	netnsFlag      = "netns"
	outputFlag     = "output"
	profileFlag    = "profile"
	resolvConfFlag = "resolv-conf"
	uninjectFlag   = "uninject"
	waitFlag       = "iptables-wait"
	verifyWaitFlag = "wait"
	whyNotFlag     = "why-not"

	printProfileFlag = "print-profile"

	patchOutput = "patch" // a value of outputFlag

	serversField = "dns.servers"
	longestField = "outbound.excludeCIDRs" // the list that can be long
)

// row is a flag that sets no field of the configuration.
func row(name, form string, group decode.Group, initial, usage string) cli.Flag {
	return cli.Flag{Field: decode.Field{Name: name, Form: form, Group: group, Initial: initial, Usage: usage}}
}

// once makes flags those of one run: a packet to explain belongs to one call, and
// a variable forgotten in a manifest must not turn apply into nothing.
func once(all ...cli.Flag) []cli.Flag {
	for i := range all {
		all[i].Once = true
	}
	return all
}

// configFlags are the flags of verbs that work from a configuration.
func configFlags() []cli.Flag {
	var all []cli.Flag
	for _, f := range decode.Fields() {
		flag := cli.Flag{Field: f}
		if f.Path == longestField { // of flags alone: an annotation names no file
			flag.Usage += ";\n@FILE: those in a file, one a line, # for comments, as for\neach flag with a list; @- for standard input"
		}
		for _, name := range f.Deprecated {
			flag.Old = append(flag.Old, cli.OldName{Name: name})
		}
		all = append(all, flag)
		if f.Path == serversField {
			all = append(all, row(resolvConfFlag, "PATH", decode.GroupDNS, "/etc/resolv.conf",
				"read with --dns resolvconf if no server is named"))
		}
	}
	return append(all, row(configFlag, "FILE", groupSource, "",
		"YAML or JSON; - for standard input; the fields are\nthose of \"config\" in render -o yaml"))
}

// netnsFlags are the flags of verbs that look into a kernel.
func netnsFlags() []cli.Flag {
	netns := row(netnsFlag, "PATH", groupWhere, "",
		"network namespace, instead of the process's own; also a\nname of ip netns, pid:NUMBER or container:ID")
	netns.Short = "n"
	allowHost := row(allowHostFlag, "", groupWhere, "false",
		"permit the host's own network namespace, or that of a\nKubernetes node which is a container (kind, k3d)")
	allowHost.Unasked = true
	return []cli.Flag{
		netns,
		allowHost,
		row(hostIPsFlag, "ADDRESSES", groupWhere, "none",
			"the node's addresses, as in the downward API's\nstatus.hostIPs: a namespace that has one is the node's"),
	}
}

// backendFlags are the flags of verbs for which it matters how rules are written.
func backendFlags() []cli.Flag {
	return []cli.Flag{
		row(backendFlag, decode.Form(dataplane.Backends()), groupWhere, string(dataplane.BackendAuto),
			"how rules get into the kernel; nft: over netlink;\nauto: nft, and iptables where that is proven unable;\n"+
				"a backend given by name is never replaced by another"),
		row("iptables-dialect", "auto|standard|minimal", groupWhere, autoDialect,
			"minimal: no comments, one value a rule, for small\nkernels and gVisor; auto: minimal where iptables-legacy\n"+
				"has no comments"),
		row("iptables-jumps", decode.Form(iptables.AllJumps()), groupWhere, string(iptables.JumpsFirst),
			"first: our rules come before the others of the built-in\nchains; last: after them; last-inbound, last-outbound:\n"+
				"after them in one direction"),
	}
}

// timeoutRow is the flag of verbs that read much.
func timeoutRow() cli.Flag {
	return row(timeoutFlag, "DURATION", groupWhere, "30s",
		"how long to read, with support or status --all; what has\nnot been read by then is left out, and named")
}

// diffRow is the flag of verbs that can say what changes.
func diffRow() cli.Flag {
	return row(diffFlag, "", cli.GroupOutput, "false", "print what changes: inject, and not the manifests;\n"+
		"explain --diff OLD NEW, which packets have another fate\nwith the configuration file NEW than with OLD, or with\n--live than by what is in force")
}

// kernelFlags are the flags of verbs that look into a kernel by a backend.
func kernelFlags() []cli.Flag {
	return append(append(netnsFlags(), backendFlags()...),
		row(waitFlag, "DURATION", groupWhere, "5s", "how long to wait for another program's lock"))
}

// dryRun is the flag of verbs that can say what they would do.
func dryRun() []cli.Flag {
	return once(row(dryRunFlag, "", groupWhere, "false",
		"change nothing: apply prints what render prints, remove\nsays what would go"))
}

// autoDialect is the value of --iptables-dialect that leaves it to the kernel.
const autoDialect = "auto"

// otherMesh is the value of --beside that insists.
const otherMesh = "other-mesh"

// besideFlags are the flags of verbs that put rules in force.
func besideFlags() []cli.Flag {
	return []cli.Flag{row(takeOverFlag, "", groupWhere, "false",
		"take out the rules of another mesh, once ours are in\nforce; no connection goes past the proxy in between"),
		row(besideFlag, "nobody|"+otherMesh, groupWhere, "nobody",
			"other-mesh: apply although rules of another mesh are in\nforce; else that is an error (mesh-init remove --foreign\n"+
				"takes them out)")}
}

// terminationLogPath is where Kubernetes has a container say why it ended (terminationMessagePath).
const terminationLogPath = "/dev/termination-log"

// runFlags are the flags of verbs that an init container or a job runs.
func runFlags() []cli.Flag {
	return []cli.Flag{
		row(terminationLogFlag, "PATH", cli.GroupOutput, terminationLogPath,
			"a file to write the error of a failed run to, if it is\nthere (kubectl describe pod shows it); none: nowhere"),
		row(metricsFileFlag, "FILE", cli.GroupOutput, "none",
			"a file for metrics of the run, which the textfile\ncollector of Prometheus' node exporter reads; none: none"),
	}
}

// outputFlags are the flags of all verbs.
func outputFlags() []cli.Flag {
	return []cli.Flag{
		cli.OutputFlag(cli.OldName{Name: "format"}),
		row(logLevelFlag, "debug|info|warn|error", cli.GroupOutput, "info",
			"the least level that is logged on standard error"),
		row(logFormatFlag, "text|json", cli.GroupOutput, "text", "form of the log; json: of errors, too"),
	}
}

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

func applyVerb() verb {
	return verb{cli.Verb{
		Name: "apply", Does: "put the rules in force, all or nothing",
		Also: []string{"install", "add", "set", "setup", "init", "start", "run"},
		More: "Applying the same configuration again changes nothing. Rules of another one are replaced in\n" +
			"one transaction: there is no moment without rules. With --live it is the configuration in\n" +
			"force, with the changes that flags, variables and a file make: what somebody has changed in the\n" +
			"rules is put right.",
		Flags: applyFlags,
		Examples: `
  In a pod's init container (runAsUser: 0, capabilities: add: [NET_ADMIN]):
    mesh-init apply --outbound-exclude-ports 5432 --dns resolvconf
  From the node, for a pod of which PID 4711 is a process:
    mesh-init apply -n /proc/4711/ns/net --config mesh.yaml
  Somebody has changed the rules of a pod: put them right, as they were applied.
    mesh-init apply --live -n /run/netns/pod
`}, job.apply}
}

func applyFlags() []cli.Flag {
	all := append(append(append(configFlags(), once(liveRow())...), kernelFlags()...), besideFlags()...)
	all = append(all, row(closeWaitFlag, "DURATION", groupWhere, "",
		"set for how long conntrack remembers a connection that\none side has closed: the namespace's sysctl\n"+
			"nf_conntrack_tcp_timeout_close_wait"))
	all = append(all, row("set-sysctls", "", groupWhere, "false",
		"set the namespace's sysctls that the configuration\nneeds; else apply names them and fails"))
	return append(append(all, dryRun()...), runFlags()...)
}

func (j job) apply() error {
	if j.over != nil {
		if err := j.takeKept(); err != nil {
			return err
		}
	}
	rs, err := intercept.Compile(j.config)
	if err != nil {
		return cli.UsageError{Err: err}
	}
	if j.dryRun {
		return j.render()
	}
	r, err := j.plane.Apply(j.ctx, j.config)
	if err != nil {
		return withFlags(err, j.target.InPlaceOf != "")
	}
	if j.sameBackend {
		r.Reason = "as the rules that were there"
	}
	for _, w := range slices.Concat(r.Warnings, j.localServers(r.Warnings), j.serversOfHere()) {
		j.log.WarnContext(j.ctx, w)
	}
	families := familyNames(rs)
	j.did.outcome, j.did.backend, j.did.rules = string(r.Outcome), r.Backend, r.Rules
	return j.print(struct {
		dataplane.Result
		Families []string `json:"families"`
	}{r, families}, func() string {
		return cli.Hang("", 2, fmt.Sprintf("%s: %d rules, %s, by %s (%s)",
			r.Outcome, r.Rules, strings.Join(families, " and "), r.Backend, strict.OneLine(r.Reason))) +
			takenOverText(r.TakenOver) + foreignText(r.Foreign)
	})
}

// takenOverText says which rules of another mesh were taken out.
func takenOverText(parts []string) string {
	var text strings.Builder
	for _, part := range parts {
		text.WriteString(cli.Hang("", 2, "taken out: "+strict.OneLine(part)))
	}
	return text.String()
}

// localServers warns of name servers in the pod that resolv.conf names, where every lookup is captured: such as the one
// that a container of the pod will be. The warnings that there are may speak of it already.
func (j job) localServers(warned []string) (warn []string) {
	if j.config.DNS.Mode != intercept.DNSAll || j.resolvConf == "" {
		return nil
	}
	text, err := yamldoc.ReadFile(j.resolvConf, nil)
	if err != nil {
		return nil // it is asked for no server
	}
	for _, s := range intercept.ParseResolvConf(string(text)) {
		said := slices.ContainsFunc(warned, func(w string) bool { return strings.Contains(w, s.String()) })
		if s.IsLoopback() && !said {
			warn = append(warn,
				fmt.Sprintf("%s names the server %s, which is in the pod: with dns all the lookups that it sends "+
					"are captured, too, and a resolver in the sidecar that asks it can wait for itself; use dns resolvconf",
					j.resolvConf, s))
		}
	}
	return warn
}

// serversOfHere warns of name servers that are the caller's, where the rules are of another namespace.
func (j job) serversOfHere() []string {
	if from := j.target.Origins[serversField]; j.resolvConf == "" && j.over == nil && from == resolvConf {
		return []string{"the name servers are those of " + from + " here, and need not be the pod's: name its own with " +
			"--dns-servers, or its file with --" + resolvConfFlag}
	}
	return nil
}

func familyNames(rs intercept.Ruleset) []string {
	var names []string
	for _, f := range rs.Families {
		names = append(names, f.String())
	}
	return names
}

// withFlags adds the flag that helps to errors that it helps against. A drop-in has some of apply's.
func withFlags(err error, dropIn bool) error {
	var errs []error
	for _, e := range strict.Flatten(err) {
		if _, is := errors.AsType[*dataplane.SysctlError](e); is && dropIn {
			e = fmt.Errorf("%w; set it", e)
		} else if is {
			e = fmt.Errorf("%w; set it, or let apply do it with --set-sysctls", e)
		}
		if other, is := errors.AsType[*dataplane.OtherMeshError](e); is {
			e = fmt.Errorf("%w; replace them with --%s, or take them out with mesh-init remove --foreign %s", e,
				takeOverFlag, other.Meshes[0].Name)
			if !dropIn {
				e = fmt.Errorf("%w, or insist with mesh-init apply --%s %s", e, besideFlag, otherMesh)
			}
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

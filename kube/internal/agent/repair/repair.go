// Package repair compares the running pods of a node with what they ask for,
// and puts in force what is missing. It deletes no pod and no rules.
package repair

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/peers/pods"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/version"
	"github.com/mesh-intercept/intercept/kube/internal/agent/kube"
	"github.com/mesh-intercept/intercept/kube/internal/agent/sandbox"
	"github.com/mesh-intercept/intercept/podspec"
)

// State is how a pod was found.
type State string

// The states.
const (
	Converged State = "converged" // its rules are in force
	Missing   State = "missing"   // it has none of our rules
	Changed   State = "changed"   // its rules are others than it asks for
	Refused   State = "refused"   // what it asks for cannot be done
	Waiting   State = "waiting"   // it has no process yet
	Unknown   State = "unknown"   // the kernel did not say
)

// Result says what was done about it.
type Result string

// The results.
const (
	None     Result = ""
	Repaired Result = "repaired"
	Failed   Result = "failed"
	DryRun   Result = "dry-run" // it would have been repaired
)

// Finding is one pod that asks for interception.
type Finding struct {
	Pod    kube.Pod
	State  State
	Result Result
	// Config is what it asks for. The zero Config: what it asks for cannot be done, or was not looked at.
	Config intercept.Config
	// Differences are those of Changed.
	Differences []intercept.Difference
	Err         error
}

// Sandbox is where a pod's rules belong.
type Sandbox interface {
	NetNS() string
	ResolvConf() (string, error)
	Close() error
}

// Repairer compares and repairs.
type Repairer struct {
	// Conf is the plugin's entry.
	Conf cniconf.Conf
	// Find opens the sandboxes of pods, by the UID that kubelet has for them.
	Find func(uids []string) (map[string]Sandbox, error)
	// DryRun changes nothing.
	DryRun bool
}

// FromProc makes a Find of a finder in /proc. A runtime's CRI can stand in its
// place.
func FromProc(f sandbox.Finder) func([]string) (map[string]Sandbox, error) {
	return func(uids []string) (map[string]Sandbox, error) {
		found, err := f.Find(uids)
		all := make(map[string]Sandbox, len(found))
		for uid, s := range found {
			all[uid] = s
		}
		return all, err
	}
}

// Aside says why a pod's rules are not this node's agent's affair, or returns "" if they are. It goes by what the
// plugin goes by.
func (r Repairer) Aside(p kube.Pod) string {
	d := r.dialect(p)
	switch {
	case p.Finished:
		return "it has ended"
	case p.Facts.HostNetwork:
		return "it is in the node's own network (hostNetwork)"
	case slices.Contains(r.Conf.ExcludeNamespaces, p.Namespace):
		return "the plugin leaves its namespace alone (excludeNamespaces)"
	case d == "":
		return "no annotation of it asks for interception (" + r.Conf.AnnotationPrefix + "/enabled)"
	case d == pods.Intercept && p.Facts.InitContainer: // other meshes' init containers are in their dialects
		return "an init container of its own intercepts it"
	}
	return ""
}

// dialect is whose annotations a pod has.
func (r Repairer) dialect(p kube.Pod) pods.Dialect {
	return pods.Claims(r.Conf.Dialects, r.Conf.AnnotationPrefix, p.Facts.Annotations)
}

// Run looks at pods, all of a node, and repairs. The error is about the node;
// what is wrong with a pod is in its finding.
func (r Repairer) Run(ctx context.Context, all []kube.Pod) (findings []Finding, err error) {
	ours := slices.DeleteFunc(slices.Clone(all), func(p kube.Pod) bool { return r.Aside(p) != "" })
	if len(ours) == 0 {
		return nil, nil
	}
	uids := make([]string, len(ours))
	for i, p := range ours {
		uids[i] = p.RuntimeUID
	}
	sandboxes, err := r.Find(uids)
	unopened := map[string]error{}
	for _, e := range strict.Flatten(err) {
		if s, ok := errors.AsType[*sandbox.Error](e); ok {
			unopened[s.UID] = s.Err
		}
	}
	if len(unopened) > 0 {
		err = nil // it is in the findings
	}
	defer func() {
		for _, s := range sandboxes {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, p := range ours {
		f := Finding{Pod: p, State: Waiting}
		if s, ok := sandboxes[p.RuntimeUID]; ok {
			f = r.look(ctx, p, s)
			// The path by which it is open differs each time.
			f.Err = strict.Reworded(f.Err, s.NetNS(), "of the pod")
		} else if why, ok := unopened[p.RuntimeUID]; ok {
			f.State, f.Err = Unknown, why
		}
		if f.State != "" { // it asks for nothing after all
			findings = append(findings, f)
		}
	}
	return findings, err
}

// look compares one pod, and repairs it.
func (r Repairer) look(ctx context.Context, p kube.Pod, s Sandbox) (f Finding) {
	f = Finding{Pod: p}
	spec, err := r.read(p, s)
	switch {
	case err != nil:
		f.State, f.Err = Refused, err
		return f
	case spec.Reason != podspec.Asked:
		return f
	}
	if why := podspec.Foreign(p.Facts.Annotations, r.Conf.RefuseRuntimes, r.Conf.Runtime, spec.RuntimeClass,
		p.Facts.RuntimeClass); why != "" {
		f.State, f.Err = Refused,
			fmt.Errorf("%s, which brings a network stack of its own: rules of the node's kernel would not be asked", why)
		return f
	}
	f.Config = spec.Config
	session, err := dataplane.Open(ctx,
		dataplane.Pod{NetNS: s.NetNS(), Backend: r.Conf.Backend, SetSysctls: true, IsPod: true,
			By:              "mesh-cni-agent " + version.Short(),
			BesideOtherMesh: r.Conf.BesideOtherMesh})
	if err == nil {
		defer func() { f.Err = errors.Join(f.Err, session.Close()) }()
		f.Differences, err = session.Check(ctx, spec.Config)
	}
	switch {
	case errors.Is(err, intercept.ErrNotIntercepted):
		// Nothing there is never what was asked for.
		f.State = Missing
	case errors.Is(err, dataplane.ErrHostNetNS):
		f.State, f.Err = Refused, err
		return f
	case err != nil:
		f.State, f.Err = Unknown, err
		return f
	case len(f.Differences) == 0:
		f.State = Converged
		return f
	default:
		f.State = Changed
	}
	if r.DryRun {
		f.Result = DryRun
		return f
	}
	// It reads back what it wrote, and fails if that is not there.
	if _, err := session.Apply(ctx, spec.Config); err != nil {
		f.Result, f.Err = Failed, err
		return f
	}
	f.Result = Repaired
	return f
}

// read says what a pod asks for, as the plugin read it.
func (r Repairer) read(p kube.Pod, s Sandbox) (podspec.Spec, error) {
	if d := r.dialect(p); d != pods.Intercept {
		answer, err := pods.Read(d, pods.Pod{Annotations: p.Facts.Annotations, Labels: p.Facts.Labels,
			Containers: p.Facts.Injected, Known: true, Addresses: p.Addresses})
		return answer.Spec, err
	}
	o := podspec.Options{Prefix: r.Conf.AnnotationPrefix, Defaults: r.Conf.Defaults, Limits: r.Conf.Limits()}
	spec, err := podspec.Read(p.Facts.Annotations, o)
	if err != nil || !spec.NameserversInPod {
		return spec, err
	}
	text, err := s.ResolvConf()
	if err != nil {
		return podspec.Spec{}, err
	}
	o.Nameservers, o.NeedNameservers = intercept.ParseResolvConf(text), true
	return podspec.Read(p.Facts.Annotations, o)
}

// Event is what a finding tells who asks about the pod, if anything.
func (f Finding) Event() (e kube.Event, ok bool) {
	e = kube.Event{Pod: f.Pod, Action: "Repair", Warning: true}
	what := "had none of the rules that its annotations ask for"
	if f.State == Changed {
		what = fmt.Sprintf("had other rules than its annotations ask for (%s)", dataplane.Differences(f.Differences))
	}
	switch {
	case f.State == Refused:
		e.Reason, e.Note = "InterceptionRefused", f.Err.Error()
	case f.State == Unknown:
		e.Reason, e.Note = "InterceptionUnknown",
			fmt.Sprintf("whether the pod's rules are in force could not be found out: %v", f.Err)
	case f.Result == Repaired:
		e.Reason, e.Note = "RulesRepaired",
			fmt.Sprintf("the pod %s; they are in force now. Connections from before are as they were.", what)
	case f.Result == Failed:
		e.Reason, e.Note = "RepairFailed", fmt.Sprintf("the pod %s, and they could not be put in force: %v", what, f.Err)
	case f.Result == DryRun:
		e.Reason, e.Note = "RulesDrifted", fmt.Sprintf("the pod %s; nothing was changed (--dry-run)", what)
	default:
		return kube.Event{}, false
	}
	return e, true
}

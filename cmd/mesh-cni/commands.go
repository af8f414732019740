package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/version"
)

// plane is what a [dataplane.Pod] can do; tests put another in its place.
type plane interface {
	Apply(context.Context, intercept.Config) (dataplane.Result, error)
	Check(context.Context, intercept.Config) ([]intercept.Difference, error)
}

// target is the pod's namespace. Sysctls are set: unlike an init container, a
// plugin may.
func (in input) target() dataplane.Pod {
	path := in.netns
	if in.held != nil {
		path = in.held.Name()
	}
	return dataplane.Pod{NetNS: path, Backend: in.conf.Backend, SetSysctls: true, IsPod: true, Unfinished: true,
		By:              "mesh-cni " + version.Short(),
		BesideOtherMesh: in.conf.BesideOtherMesh}
}

// there makes the error of what was done in the pod's namespace: it calls the namespace as the runtime does, and there
// is one where CNI_NETNS has come to lead to another.
func (in input) there(err error) error {
	if in.held == nil {
		return err
	}
	if err != nil {
		return strict.Reworded(err, in.held.Name(), in.netns)
	}
	was, err := in.held.Stat()
	if is, statErr := os.Stat(in.netns); err == nil && statErr == nil && !os.SameFile(was, is) {
		err = fmt.Errorf("%w: %s led to one when the call began, and leads to another now; the pod may be gone",
			dataplane.ErrNotNetNS, in.netns)
	}
	return err
}

// add puts the rules of a pod in force, if it asks for any, and passes on what
// the plugins before have made of the pod.
func (p *plugin) add(ctx context.Context, in input) error {
	result, err := in.passed()
	if err != nil {
		return failed(in.who(), err)
	}
	defer in.hold()()
	r := report{in: in, command: "ADD", begun: p.begun}
	v, err := in.judge(ctx)
	if err == nil && v.skip == "" {
		r.applied, err = p.plane(in.target()).Apply(ctx, v.spec.Config)
		err = in.there(err)
		if errors.Is(err, dataplane.ErrHostNetNS) {
			v, err = verdict{skip: hostNetwork}, nil
		}
		// A mistake of the pod's is not the node's failure.
		v.lenient = !v.strict
	}
	switch {
	case err == nil && v.skip != "":
		p.after = func() { r.skip(v.skip) }
	case err == nil:
		r.applied.Warnings = append(v.warnings, r.applied.Warnings...)
		r.intercepted()
	case v.lenient && in.conf.FailurePolicy == cniconf.PolicyAllow:
		r.allowed(failed(in.who(), err))
	default:
		e := failed(in.who(), err)
		r.failed(e)
		return e
	}
	p.result = result
	return nil
}

// drift makes one error of differences.
func drift(all []intercept.Difference) error {
	if len(all) == 0 {
		return nil
	}
	var named []string
	for _, d := range all[:min(len(all), 3)] {
		named = append(named, d.String())
	}
	if more := len(all) - len(named); more > 0 {
		named = append(named, fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("%w: %s", errDrifted, strings.Join(named, "; "))
}

// check compares the kernel with what the pod asks for.
func (p *plugin) check(ctx context.Context, in input) error {
	defer in.hold()()
	r := report{in: in, command: "CHECK", begun: p.begun}
	v, err := in.judge(ctx)
	if err == nil && v.skip == "" {
		var differences []intercept.Difference
		differences, err = p.plane(in.target()).Check(ctx, v.spec.Config)
		err = in.there(err)
		switch {
		case errors.Is(err, dataplane.ErrHostNetNS):
			v, err = verdict{skip: hostNetwork}, nil
		case err == nil:
			err = drift(differences)
		}
	}
	if err == nil {
		r.ok(v.skip)
		return nil
	}
	e := failed(in.who(), err)
	if _, statErr := os.Stat(in.netns); errors.Is(err, dataplane.ErrNotNetNS) && errors.Is(statErr, fs.ErrNotExist) {
		e.Code = types.ErrUnknownContainer
	}
	r.failed(e)
	return e
}

// nodeProbe finds out whether the node can intercept by a configuration.
type nodeProbe func(context.Context, dataplane.Pod, intercept.Config) error

// probeNode applies it in a network namespace of its own, which then goes.
func probeNode(ctx context.Context, p dataplane.Pod, c intercept.Config) (err error) {
	s, err := dataplane.OpenNew(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	_, err = s.Apply(ctx, c)
	return err
}

// status says whether the next ADD of a pod that asks for interception could
// work.
func (p *plugin) status(ctx context.Context, in input) error {
	if err := errors.Join(in.confErr, in.err); err != nil {
		return failed("the entry of mesh-cni", err)
	}
	r := report{in: in, command: "STATUS", begun: p.begun}
	what, err := "backend "+string(in.conf.Backend), p.probe(ctx, in.target(), in.conf.WithoutPod())
	if err == nil && !in.conf.Capabilities[cniconf.AnnotationsCapability] {
		what, err = "the node's agent", in.reachAgent(ctx)
	}
	if err == nil {
		r.ok("")
		return nil
	}
	e := failed(what, err)
	e.Code = codeUnavailable
	r.failed(e)
	return e
}

// reachAgent says whether the agent answers, where runtimes give no annotations.
func (in input) reachAgent(ctx context.Context) error {
	if in.conf.AgentSocket == "" {
		return fmt.Errorf("there is none (agentSocket), and the entry does not declare the capability %q: nobody can say "+
			"which pods ask for interception; set either", cniconf.AnnotationsCapability)
	}
	ctx, cancel := context.WithTimeout(ctx, in.conf.AgentTimeout)
	defer cancel()
	if err := cniwire.Ping(ctx, in.conf.AgentSocket); err != nil {
		return fmt.Errorf("%w; see to the agent's pod on this node, or declare the capability %q", err,
			cniconf.AnnotationsCapability)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/peers/pods"
	"github.com/mesh-intercept/intercept/podspec"
)

// verdict is what is to become of a pod.
type verdict struct {
	spec podspec.Spec // if skip is ""
	// skip says why the pod is left alone, in a word for the log.
	skip string
	// strict is whether the pod must not start without its rules.
	strict bool
	// lenient is whether failurePolicy decides about the error.
	lenient bool
	// warnings are what a pod's annotations ask for in vain.
	warnings []string
}

// Why pods are left alone.
const (
	notAnnotated = "not-annotated"
	hostNetwork  = "host-network"
)

// judge decides from what the runtime says, and what the agent says where that
// does not suffice. Whatever can be told without looking at the entry comes
// first: a pod that is not ours is broken by nothing of ours.
func (in input) judge(ctx context.Context) (verdict, error) {
	if d, ok := in.otherMesh(); ok {
		return in.judgeOther(ctx, d)
	}
	switch why := in.foreign(); {
	case why == notAnnotated && in.strange():
		return verdict{lenient: true}, in.confErr
	case why != "":
		return verdict{skip: why}, nil
	}
	if in.ownNetNS() {
		return verdict{skip: hostNetwork}, nil
	}
	if !in.annotated && !in.named() {
		return verdict{skip: "no-pod"}, nil
	}
	if reason := podspec.Declined(in.annotations, in.conf.AnnotationPrefix); reason != "" {
		return verdict{skip: skipOf(reason)}, nil
	}
	if err := errors.Join(in.confErr, in.err); err != nil {
		return verdict{lenient: !podspec.IsStrict(in.annotations, in.conf.AnnotationPrefix)}, err
	}
	facts := cniwire.Facts{Annotations: in.annotations}
	if !in.annotated {
		var err error
		if facts, err = in.ask(ctx); err != nil {
			return verdict{lenient: true}, err
		}
		d := pods.Claims(in.conf.Dialects, in.conf.AnnotationPrefix, facts.Annotations)
		switch {
		case facts.HostNetwork:
			return verdict{skip: hostNetwork}, nil
		case d != "" && d != pods.Intercept:
			return in.asOther(ctx, d, facts)
		case facts.InitContainer:
			return verdict{skip: "init-container"}, nil
		}
	}
	spec, err := podspec.Read(facts.Annotations, podspec.Options{
		Prefix: in.conf.AnnotationPrefix, Defaults: in.conf.Defaults, Limits: in.conf.Limits(),
		Nameservers: in.nameservers, NeedNameservers: true,
	})
	if err != nil {
		return verdict{}, errors.Join(err, in.serversErr)
	}
	if spec.Reason != podspec.Asked {
		return verdict{skip: skipOf(spec.Reason)}, nil
	}
	if in.annotated && in.named() && in.conf.AgentSocket != "" {
		facts.RuntimeClass = in.runtimeClass(ctx)
	}
	if err := in.asksKernel(spec, facts); err != nil {
		return verdict{}, err
	}
	return verdict{spec: spec, strict: spec.Strict}, nil
}

// asksKernel refuses a pod whose runtime would not ask the node's kernel about its packets.
func (in input) asksKernel(spec podspec.Spec, facts cniwire.Facts) error {
	why := podspec.Foreign(facts.Annotations, in.conf.RefuseRuntimes, in.conf.Runtime, spec.RuntimeClass, facts.RuntimeClass)
	if why == "" {
		return nil
	}
	return fmt.Errorf("%w: %s, which brings a network stack of its own; intercept in the pod with an init container "+
		"(mesh-init), or set %s/%s: \"false\"", errForeignRuntime, why, in.conf.AnnotationPrefix, podspec.Enabled)
}

// ask asks the agent about a pod of which the runtime gave no annotations.
func (in input) ask(ctx context.Context) (cniwire.Facts, error) {
	declare := fmt.Sprintf(
		`declare the capability %q in the entry of mesh-cni (containerd and CRI-O then give the annotations)`,
		cniconf.AnnotationsCapability)
	if in.conf.AgentSocket == "" {
		return cniwire.Facts{},
			fmt.Errorf("%w: the runtime gave no annotations, and there is no agentSocket; %s, or name the agent's socket",
				errUnknowable, declare)
	}
	ctx, cancel := context.WithTimeout(ctx, in.conf.AgentTimeout)
	defer cancel()
	facts, err := cniwire.Ask(ctx, in.conf.AgentSocket, in.pod)
	switch {
	case err != nil:
		return facts, fmt.Errorf(
			"%w: the runtime gave no annotations, and the agent: %w; see to the agent's pod on this node, or %s", errUnknowable,
			err, declare)
	case !facts.Found:
		return facts, fmt.Errorf("%w: the agent does not know the pod after %v; it is tried again", errUnknowable,
			in.conf.AgentTimeout)
	}
	return facts, nil
}

// runtimeClass asks the agent for what a runtime does not say. It is worth
// little time: without an agent the rest of the checks has to do.
func (in input) runtimeClass(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, min(in.conf.AgentTimeout, 250*time.Millisecond))
	defer cancel()
	facts, err := cniwire.AskNow(ctx, in.conf.AgentSocket, in.pod)
	if err != nil {
		return ""
	}
	return facts.RuntimeClass
}

// skipOf is a word for why a pod asks for nothing.
func skipOf(r podspec.Reason) string { return strings.ReplaceAll(string(r), " ", "-") }

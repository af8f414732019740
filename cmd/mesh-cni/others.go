package main

import (
	"context"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types/create"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/peers/pods"
	"github.com/mesh-intercept/intercept/podspec"
)

// otherMesh returns the mesh whose pod this is, by the annotations that the runtime gives, if it is not ours.
func (in input) otherMesh() (pods.Dialect, bool) {
	if !in.annotated || in.err != nil || in.exempt() != "" {
		return "", false
	}
	d := pods.Claims(in.conf.Dialects, in.conf.AnnotationPrefix, in.annotations)
	return d, d != "" && d != pods.Intercept
}

// judgeOther decides about a pod of another mesh.
func (in input) judgeOther(ctx context.Context, d pods.Dialect) (verdict, error) {
	if in.ownNetNS() {
		return verdict{skip: hostNetwork}, nil
	}
	if in.confErr != nil {
		return verdict{lenient: true}, in.confErr
	}
	facts := cniwire.Facts{Annotations: in.annotations}
	if in.named() && in.conf.AgentSocket != "" {
		// What a runtime does not say: as whom the proxy runs, and what its variables ask for.
		asked, err := in.ask(ctx)
		if err != nil {
			return verdict{lenient: true}, err
		}
		facts = asked
	}
	return in.asOther(ctx, d, facts)
}

// asOther reads a pod in the dialect of its mesh.
func (in input) asOther(ctx context.Context, d pods.Dialect, facts cniwire.Facts) (verdict, error) {
	answer, err := pods.Read(d, pods.Pod{
		Annotations: facts.Annotations, Labels: facts.Labels, Containers: facts.Injected, Known: facts.Found,
		Addresses: in.addresses(ctx),
	})
	switch {
	case err != nil:
		return verdict{}, err
	case answer.Reason != podspec.Asked:
		return verdict{skip: skipOf(answer.Reason)}, nil
	}
	if err := in.asksKernel(answer.Spec, facts); err != nil {
		return verdict{}, err
	}
	return verdict{spec: answer.Spec, warnings: answer.Warnings}, nil
}

// addresses are those that the plugins before have given the pod or, where they do not say, those that it has.
func (in input) addresses(ctx context.Context) (all []netip.Addr) {
	for _, ip := range in.ips() {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			all = append(all, a.Unmap())
		}
	}
	if len(all) == 0 {
		// An error is Apply's to report, in the same namespace.
		all, _ = in.target().Addresses(ctx)
	}
	return all
}

// ips are the addresses of prevResult.
func (in input) ips() []*types100.IPConfig {
	if in.prevResult == nil {
		return nil
	}
	result, err := create.CreateFromBytes(in.prevResult)
	if err != nil {
		return nil
	}
	current, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil
	}
	return current.IPs
}

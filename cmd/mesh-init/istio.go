package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/peers/istio"
	"github.com/mesh-intercept/intercept/verify"
)

// errInvalid reports that a validation failed. The exit code is that of istio-iptables, by which Istio's repair of races
// knows a pod that started without rules.
var errInvalid = errors.New("the rules are not in force; the workload is not ready for the mesh")

func istioIPTables() dropIn {
	return dropIn{
		name: istio.Name, does: "what istio-iptables does, with its flags: for an image in Istio's templates",
		called: []string{istio.Name}, mesh: "istio", program: istio.Name, changes: istio.Changes, netns: "--network-namespace", read: istio.Parse, after: program.validate,
		exits: []cli.Exit{{Code: 126, Err: errInvalid, Meaning: "validation failed (istio-iptables --run-validation)"}},
	}
}

// validate does --run-validation: by verify, with a stand-in for the proxy, which starts later.
func (p program) validate(j job, r peers.Request) error {
	if r.Validation == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(j.ctx, r.Validation.Timeout)
	defer cancel()
	j.verification.wait = r.Validation.Timeout
	j.target.StandIn = true
	j.plane = p.plane(j.target)
	report, err := j.verified()
	if _, served := errors.AsType[dataplane.ServedError](err); served {
		j.target.StandIn = false
		j.plane = p.plane(j.target)
		report, err = j.verified()
	}
	switch {
	case errors.Is(err, intercept.ErrPermission), errors.Is(err, fs.ErrPermission):
		err = j.withLess(ctx, *r.Validation)
	case err == nil && report.Verdict == verify.Failed:
		err = errors.New("failed: " + failures(report))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errInvalid, err)
	}
	j.log.InfoContext(j.ctx, "the rules are in force")
	return nil
}

// withLess validates where this process may not do what verify does. With NET_ADMIN, as in an init container that has just
// written the rules, they are read back; as the proxy without any privilege, a call shows whether they are there.
func (j job) withLess(ctx context.Context, v peers.Validation) error {
	diffs, err := j.plane.Check(j.ctx, j.config)
	switch {
	case err == nil && len(diffs) > 0:
		return errors.New(dataplane.Differences(diffs))
	case !errors.Is(err, intercept.ErrPermission) || j.target.NetNS != "":
		return err
	}
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	if !j.config.Proxy.UIDs.Contains(uid) && !j.config.Proxy.GIDs.Contains(gid) {
		return fmt.Errorf("user %d, group %d, is not the proxy, and has no privilege; run it as the proxy, user %s", uid, gid,
			j.config.Proxy.UIDs)
	}
	rs, err := intercept.Compile(j.config)
	if err != nil {
		return err
	}
	own, err := j.target.Addresses(j.ctx)
	if err != nil {
		return err
	}
	called := false
	for _, f := range rs.Families {
		i := slices.IndexFunc(own, func(a netip.Addr) bool { // a call from the passthrough source is left alone
			return a.IsGlobalUnicast() && intercept.FamilyOf(a) == f && !slices.Contains(j.config.PassthroughSources, a)
		})
		if i < 0 {
			continue
		}
		called = true
		if err := j.comesBack(ctx, netip.AddrPortFrom(own[i], v.Port)); err != nil {
			return err
		}
	}
	if !called {
		return errors.New("the pod has no address of a family that is captured")
	}
	return nil
}

// comesBack calls an address of the pod, until the call comes to the proxy's inbound port or the context ends: the rules
// may be on their way.
func (j job) comesBack(ctx context.Context, to netip.AddrPort) error {
	inbound := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), j.config.Inbound.Port.First)
	if to.Addr().Is6() {
		inbound = netip.AddrPortFrom(netip.IPv6Loopback(), inbound.Port())
	}
	for {
		try, cancel := context.WithTimeout(ctx, again)
		err := j.plane.Arrive(try, inbound, to)
		elsewhere := j.config.Inbound.Mode == intercept.InboundTProxy // to a listener without privilege nothing is given
		if errors.Is(err, syscall.EADDRINUSE) {
			// The proxy is up, and has the call unless it comes to where it was sent.
			if err = j.plane.Arrive(try, to, to); err == nil {
				err = fmt.Errorf("a connection to %s was not captured: it arrives there", to)
			} else {
				elsewhere = true
			}
		}
		cancel()
		_, astray := errors.AsType[dataplane.AstrayError](err)
		_, refused := errors.AsType[syscall.Errno](err)
		if err == nil || elsewhere && astray && !refused {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(again / 5):
		}
	}
}

// mostFailures is how many failures an error names: there may be one for each thing that was tried.
const mostFailures = 3

// failures says what a report found wrong.
func failures(r verify.Report) string {
	var all []string
	for _, v := range r.Verdicts {
		if v.Verdict == verify.Failed {
			all = append(all, v.String())
		}
	}
	if more := len(all) - mostFailures; more > 0 {
		all = append(all[:mostFailures], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(all, "; ")
}

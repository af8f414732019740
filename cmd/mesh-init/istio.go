package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/hairpin"
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
		called: []string{istio.Name}, mesh: "istio", read: istio.Parse, after: program.validate,
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
		return fmt.Errorf("%d differences, the first: %s", len(diffs), diffs[0])
	case !errors.Is(err, intercept.ErrPermission) || j.target.NetNS != "":
		return err
	}
	own, err := j.target.Addresses(j.ctx)
	if err != nil {
		return err
	}
	return hairpin.Verify(ctx, j.config, own, v.Port)
}

// failures says what a report found wrong.
func failures(r verify.Report) string {
	text := ""
	for _, v := range r.Verdicts {
		if v.Verdict == verify.Failed {
			if text != "" {
				text += "; "
			}
			text += v.String()
		}
	}
	return text
}

package main

import (
	"context"
	"errors"
	"fmt"

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
		called: []string{istio.Name}, read: istio.Parse, after: program.validate,
		exits: []cli.Exit{{Code: 126, Err: errInvalid, Meaning: "validation failed (istio-iptables --run-validation)"}},
	}
}

// validate does --run-validation: by verify, with a stand-in for the proxy, which starts later; and where this process
// may not do what verify does, by what the proxy itself sees.
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
	case errors.Is(err, intercept.ErrPermission) && j.target.NetNS == "":
		own, listErr := j.target.Addresses(ctx)
		if listErr == nil {
			listErr = hairpin.Verify(ctx, r.Config, own, r.Validation.Port)
		}
		err = listErr
	case err == nil && report.Verdict == verify.Failed:
		err = errors.New("failed: " + failures(report))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errInvalid, err)
	}
	j.log.InfoContext(j.ctx, "the rules are in force")
	return nil
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

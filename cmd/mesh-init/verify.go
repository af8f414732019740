package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/verify"
)

const groupVerify decode.Group = "What counts as proven"

func verifyVerb() verb {
	return verb{cli.Verb{
		Name: "verify", Does: "prove that interception works, by connections and lookups",
		Also: []string{"validate", "probe"},
		More: "It does what an app, the proxy and a client do, and says of each ok, failed or not\n" +
			"proven. It sends from ports " + verify.SourcePorts.String() + ", and to addresses nobody has (RFC 5737,\n" +
			"RFC 3849) with a hop limit of 1: what is not captured gets no further than the first\n" +
			"router. Only what the rules send to a target outside the pod goes further, to that. Without a\n" +
			"flag, variable or file of a configuration it is the one that the rules in force were made of.",
		Flags: func() []cli.Flag {
			return append(append(append(configFlags(), kernelFlags()...), runFlags()...),
				row(verifyWaitFlag, "DURATION", groupVerify, "0s",
					"try again until it works, for so long; for an init\ncontainer that validates"),
				row("listen", "", groupVerify, "false",
					"listen in place of the proxy, where it is not up yet;\nan error if somebody listens there"),
				row("allow-unproven", "", groupVerify, "false", "end with 0 although something is not proven"))
		},
	}, job.verify}
}

// again is how long to wait before verify tries again.
const again = 500 * time.Millisecond

// verify says whether each thing that interception needs is there.
func (j job) verify() error {
	if err := j.kept(); err != nil {
		return err
	}
	r, err := j.verified()
	if errors.Is(err, intercept.ErrNotIntercepted) && j.output != cli.Text {
		err = errors.Join(j.print(r, nil), err)
	}
	if err != nil {
		return j.bare(err)
	}
	j.did.outcome = string(r.Verdict)
	if rs, err := intercept.Compile(j.config); err == nil {
		j.did.rules = rs.Count()
	}
	for _, v := range r.Verdicts {
		if v.Verdict == r.Verdict && v.Verdict != verify.OK {
			j.did.causes = append(j.did.causes, string(v.Verdict)+": "+v.String())
		}
	}
	others, err := j.foreignChains(true)
	if err != nil {
		return err
	}
	err = j.print(struct {
		verify.Report
		// Foreign are the chains of others at the same hooks.
		Foreign dataplane.Foreign `json:"foreign,omitzero"`
	}{r, others}, func() string { return j.verifyText(r) + foreignText(others) })
	if err != nil {
		return err
	}
	switch {
	case r.Verdict == verify.Failed:
		return errNotVerified
	case r.Verdict == verify.NotProven && !j.verification.allowUnproven:
		return errNotProven
	}
	return nil
}

// verified tries until it works, or for as long as it may.
func (j job) verified() (verify.Report, error) {
	ctx, cancel := context.WithTimeout(j.ctx, j.verification.wait)
	defer cancel()
	for {
		r, err := j.plane.Verify(j.ctx, j.config)
		none := errors.Is(err, intercept.ErrNotIntercepted) // there may be rules later
		if err != nil && !none || err == nil && r.Verdict != verify.Failed {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, cmp.Or(err, j.ctx.Err())
		case <-time.After(again):
		}
	}
}

// verifyText is the report for people.
func (j job) verifyText(r verify.Report) string {
	var text strings.Builder
	const width = len(verify.NotProven) + 2
	line := func(word, styled, more string) {
		text.WriteString(cli.Hang(styled+strings.Repeat(" ", width-len(word)), width, strict.OneLine(more)))
	}
	for _, v := range r.Verdicts {
		word := string(v.Verdict)
		styled := j.style.Bad(word)
		if v.Verdict == verify.OK {
			styled = j.style.Good(word)
		}
		line(word, styled, v.String())
	}
	for _, n := range r.Notes {
		line("", "", n)
	}
	covered := []string{r.Coverage.String()}
	for i, n := range r.Coverage.NotTried {
		s := fmt.Sprintf("%s (%s), because %s", n.Rule, n.Reason, n.Because)
		if i == 0 {
			s = "not tried: " + s
		}
		covered = append(covered, s)
	}
	line("", "", strings.Join(covered, "; "))
	return text.String()
}

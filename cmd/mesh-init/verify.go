package main

import (
	"strings"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
)

func verifyVerb() verb {
	return verb{cli.Verb{
		Name: "verify", Does: "say whether interception works: rules, listeners, a connection",
		Also: []string{"validate", "probe"},
		More: "It opens connections to addresses nobody has (RFC 5737, RFC 3849), with a hop limit of 1:\n" +
			"they get no further than the node if they are not captured.",
		Flags: func() []cli.Flag { return append(configFlags(), kernelFlags()...) },
	}, job.verify}
}

// verify says whether each thing that interception needs is there.
func (j job) verify() error {
	verdicts, err := j.plane.Verify(j.ctx, j.config)
	if err != nil {
		return err
	}
	ok := true
	for _, v := range verdicts {
		ok = ok && v.OK
	}
	err = j.print(struct {
		OK       bool                `json:"ok"`
		Verdicts []dataplane.Verdict `json:"verdicts"`
	}{ok, verdicts}, func() string {
		var text strings.Builder
		for _, v := range verdicts {
			state := j.style.Bad("FAILED")
			if v.OK {
				state = j.style.Good("ok") + "    "
			}
			text.WriteString(cli.Hang(state+"  ", 8, strict.OneLine(v.What+": "+v.Found)))
		}
		return text.String()
	})
	if !ok && err == nil {
		err = errNotVerified
	}
	return err
}

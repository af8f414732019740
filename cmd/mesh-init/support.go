package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/facts"
	"github.com/mesh-intercept/intercept/internal/support"
	"github.com/mesh-intercept/intercept/internal/version"
)

const groupSupport decode.Group = "What a bug report has"

func supportVerb() verb {
	return verb{cli.Verb{
		Name: "support", Does: "write down all that a bug report needs, as one document",
		Also: []string{"bugreport", "report", "collect", "debug", "snapshot"},
		More: "The document is JSON, or YAML with -o yaml: what doctor and status say, the configuration\n" +
			"that is in force and the one given here, interfaces, routes, listening sockets, sysctls,\n" +
			"connection tracking, and who has looked. What could not be read is there with the reason.\n" +
			"It changes nothing. Without --mask it names addresses, interfaces and processes.",
		Flags: func() []cli.Flag {
			return append(append(configFlags(), kernelFlags()...),
				row(maskFlag, "", groupSupport, "false",
					"hide addresses, names and secrets; the same address is\nthe same everywhere, and in one network with the others\n"+
						"of its network"),
				timeoutRow())
		},
		Examples: `
  What shall be attached to a bug report?
    mesh-init support --mask -n /run/netns/pod > support.json
`}, job.support}
}

// A section is a part of the document: its name, and what reads it. A nil value: there is only an error.
type section struct {
	name string
	read func(context.Context) (any, error)
}

func (j job) sections() []section {
	inNamespace := func(name string, read func() (any, error)) section {
		return section{name, func(ctx context.Context) (value any, err error) {
			err = j.plane.Do(ctx, func() error {
				value, err = read()
				return err
			})
			return value, err
		}}
	}
	config := j.config
	return []section{
		{"given", func(context.Context) (any, error) {
			return struct {
				Config  intercept.Config `json:"config"`
				Sources []string         `json:"sources"`
			}{j.config, j.sources}, nil
		}},
		{"process", func(context.Context) (any, error) { return orNil(facts.Self()) }},
		inNamespace("interfaces", func() (any, error) { return orNil(facts.Interfaces()) }),
		inNamespace("routes", func() (any, error) { return orNil(facts.Routes()) }),
		inNamespace("rules", func() (any, error) { return orNil(facts.Rules()) }),
		inNamespace("listeners", func() (any, error) { return orNil(facts.Listeners()) }),
		inNamespace("sysctls", func() (any, error) { return facts.Sysctls() }),
		inNamespace("conntrack", func() (any, error) { return orNil(facts.Tracked()) }),
		{"inForce", func(ctx context.Context) (any, error) {
			f, err := j.plane.InForce(ctx)
			if err != nil {
				return nil, err
			}
			config = f.Config
			return f, nil
		}},
		{"status", func(ctx context.Context) (any, error) {
			o, err := j.plane.Overview(ctx)
			if o.Summary == "" {
				return nil, err
			}
			return none(o), err
		}},
		// Of what is in force, if that is known: what is read last is what takes longest.
		{"doctor", func(ctx context.Context) (any, error) { return orNil(j.plane.Probe(ctx, config)) }},
	}
}

// orNil is a value, or nothing if there is an error.
func orNil[T any](value T, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return value, nil
}

func (j job) support() error {
	ctx, cancel := context.WithTimeout(j.ctx, j.timeout)
	defer cancel()
	doc := support.Document{Version: support.Version, At: time.Now().UTC().Truncate(time.Second), Tool: version.Get(),
		Parts: map[string]*support.Part{}}
	sections := j.sections()
	late := fmt.Sprintf("it was not read within %s: wait longer with --%s", j.timeout, timeoutFlag)
	type result struct {
		value any
		err   error
	}
	for _, s := range sections {
		doc.Parts[s.name] = &support.Part{Error: late}
		if ctx.Err() != nil {
			continue
		}
		r, ended := inTime(ctx, func() result {
			value, err := s.read(ctx)
			return result{value, err}
		})
		switch {
		case !ended, errors.Is(r.err, context.DeadlineExceeded):
		case errors.Is(r.err, dataplane.ErrNotNetNS):
			return r.err
		default:
			doc.Parts[s.name] = support.NewPart(r.value, r.err)
		}
	}
	if j.ctx.Err() != nil {
		return j.ctx.Err()
	}
	if j.mask {
		key, err := facts.Key()
		if err != nil {
			return err
		}
		doc.Mask(key)
	}
	format := j.output
	if format != cli.YAML {
		format = cli.JSON
	}
	return format.Write(j.out, doc, nil)
}

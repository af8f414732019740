package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/kube/internal/answers"
	"github.com/mesh-intercept/intercept/kube/internal/reach"
)

// atOnce is how many agents are asked at a time.
const atOnce = 16

// list shows the pods of a namespace, or of all, the most trouble first. What nobody could say is an error, after the
// rest.
func (p *program) list(ctx context.Context, c *reach.Cluster, namespace, form string) error {
	if !slices.Contains([]string{"", string(cli.Text), string(cli.JSON), string(cli.YAML)}, form) {
		return usage("--output: %q is none of text, json, yaml", strict.Clip(form))
	}
	agents, err := c.Agents(ctx, "")
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	l, errs := answers.List{Pods: []answers.Row{}}, []error(nil)
	slots := make(chan struct{}, atOnce)
	for _, a := range agents {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			client, err := c.Client(ctx, a)
			var rows []answers.Row
			if err == nil {
				if rows, err = client.List(ctx, namespace); err != nil {
					err = fmt.Errorf("node %s: %w", a.Node, err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			l.Pods = append(l.Pods, rows...)
			if err != nil && !slices.ContainsFunc(errs, func(e error) bool { return e.Error() == err.Error() }) {
				errs = append(errs, err)
			}
		})
	}
	all.Wait()
	answers.Sort(l.Pods)
	if nodes, err := c.Nodes(ctx); err != nil {
		errs = append(errs, fmt.Errorf("whether each node has an agent is not known: %w", err))
	} else {
		for _, node := range nodes {
			if !slices.ContainsFunc(agents, func(a reach.Agent) bool { return a.Node == node }) {
				errs = append(errs, fmt.Errorf("node %s has no agent that runs: its pods are not shown", node))
			}
		}
	}
	if len(l.Pods) > 0 {
		p.code = exitOf(l.Pods[0].State)
	}
	return errors.Join(cli.Format(form).Write(p.stdout, l, func() string { return table(l.Pods) }), errors.Join(errs...))
}

// exitOf is mesh-init's exit code for what the worst pod of a list has.
func exitOf(s answers.State) int {
	switch s {
	case answers.NotIntercepted, answers.Asleep:
		return 10
	case answers.Changed:
		return 11
	case answers.Refused, answers.Taken, answers.Partial, answers.Shared, answers.Full, answers.Unserved:
		return 18
	case answers.Unknown:
		return 19
	case answers.Waiting, answers.Intercepting, answers.LeftAlone:
	}
	return cli.ExitDone
}

func table(all []answers.Row) string {
	if len(all) == 0 {
		return "no pods\n"
	}
	rows := []cli.Row{{"NAMESPACE", "POD", "NODE", "STATE", "WHY"}}
	for _, r := range all {
		rows = append(rows, cli.Row{r.Namespace, r.Name, r.Node, string(r.State), strict.OneLine(r.Why)})
	}
	return cli.Table(rows)
}

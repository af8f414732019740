package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/netns"
	"github.com/mesh-intercept/intercept/internal/sockets"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// What else there is to say of a namespace of the node, besides the verdicts of status.
const (
	// unknown: it could not be looked at.
	unknown dataplane.Verdict = "unknown"
	// leftAlone: there are no rules of ours, and nothing says that there should be; or it is the node's own.
	leftAlone dataplane.Verdict = "left alone"
	// gone: it ended while it was looked at.
	gone dataplane.Verdict = "gone"
)

// state is what a namespace can be in.
type state struct {
	dataplane.Verdict
	trouble bool
}

// states are all of them, the most trouble first.
func states() (all []state) {
	for _, v := range dataplane.Verdicts() {
		if v == dataplane.Intercepting {
			all = append(all, state{unknown, true})
		}
		all = append(all, state{v, v != dataplane.Intercepting})
	}
	return append(all, state{leftAlone, false}, state{gone, false})
}

// nodeRow is how it is with a network namespace of the node, as a look at it finds: without trying anything.
type nodeRow struct {
	// Namespace and Name are the pod's. Without a Namespace, Name is what a container calls itself.
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
	// NetNS is what --netns takes for it.
	NetNS string            `json:"netns"`
	State dataplane.Verdict `json:"state"`
	// Why is what is behind the state. Empty: the state says it all.
	Why string `json:"why,omitempty"`
	// Summary is what status says first. Empty: there are no rules of ours, or they were not seen.
	Summary string `json:"summary,omitempty"`
	// File keeps the namespace, and PID and Process are in it. Empty, or 0: none is seen.
	File    string `json:"file,omitempty"`
	PID     int    `json:"pid,omitempty"`
	Process string `json:"process,omitempty"`
	// PodUID and Container are whose that process is.
	PodUID    string `json:"podUID,omitempty"`
	Container string `json:"container,omitempty"`
}

const (
	// looksAtOnce is how many namespaces are looked at at a time.
	looksAtOnce = 8
	// longestLook is how long one may take to answer.
	longestLook = 10 * time.Second
)

// besideAll says what is wrong with what is given beside --all.
func (in inputs) besideAll(all bool) (errs []error) {
	for _, g := range in.given {
		if all && (g.source == "--"+netnsFlag || g.Name == watchFlag) {
			errs = append(errs, fmt.Errorf("%s: it is of one namespace, and --%s looks into every one; leave one of them out", g.source,
				allFlag))
		}
	}
	return errs
}

// statusOfAll says how it is with each network namespace of the node.
func (j job) statusOfAll(wide bool) error {
	found, hidden, err := netns.List()
	if err != nil {
		return err
	}
	if hidden > 0 {
		j.log.WarnContext(j.ctx, "hidden from this user, and perhaps namespaces with them: "+
			strict.Count(hidden, "process")+"; it takes CAP_SYS_PTRACE")
	}
	rows := j.lookAtAll(found, netns.PodNames(netns.PodLogs))
	sortRows(rows)
	if j.output == prometheusOutput {
		j.out.WriteString(metricsOfAll(rows))
	} else if err := j.print(rows, func() string { return rowsText(rows, wide) }); err != nil {
		return err
	}
	return troubleIn(rows)
}

// troubleIn is an error if there is trouble.
func troubleIn(rows []nodeRow) error {
	n := 0
	for _, s := range states() {
		if s.trouble {
			n += countState(rows, s.Verdict)
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d of %d", errTrouble, n, len(rows))
}

func countState(rows []nodeRow, state dataplane.Verdict) (n int) {
	for _, r := range rows {
		if r.State == state {
			n++
		}
	}
	return n
}

// sortRows sorts by trouble, and what is in one state by namespace and name.
func sortRows(rows []nodeRow) {
	rank := map[dataplane.Verdict]int{}
	for i, s := range states() {
		rank[s.Verdict] = i
	}
	sort.SliceStable(rows, func(i, k int) bool {
		a, b := rows[i], rows[k]
		return cmp.Or(cmp.Compare(rank[a.State], rank[b.State]), strings.Compare(a.Namespace, b.Namespace),
			strings.Compare(a.Name, b.Name), strings.Compare(a.NetNS, b.NetNS)) < 0
	})
}

// lookAtAll looks at namespaces, some at a time. One that does not answer is left behind: the program ends, and the
// others are not kept waiting.
func (j job) lookAtAll(found []netns.Found, names map[string]netns.PodName) []nodeRow {
	ctx, cancel := context.WithTimeout(j.ctx, j.timeout)
	defer cancel()
	type result struct {
		at  int
		row nodeRow
	}
	results := make(chan result, len(found))
	slots := make(chan struct{}, looksAtOnce)
	for i, f := range found {
		row := rowOf(f, names)
		go func() {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				results <- result{i, j.lookWithin(ctx, longestLook, f, row)}
			case <-ctx.Done():
				row.State, row.Why = unknown, fmt.Sprintf("it was not looked at within %s: wait longer with --%s", j.timeout, timeoutFlag)
				results <- result{i, row}
			}
		}()
	}
	rows := make([]nodeRow, len(found))
	for range found {
		r := <-results
		rows[r.at] = r.row
	}
	return rows
}

// rowOf is what is known of a namespace before it is looked at.
func rowOf(f netns.Found, names map[string]netns.PodName) nodeRow {
	row := nodeRow{NetNS: shortSpec(f), File: f.Path, PID: f.PID, Process: f.Process, PodUID: f.PodUID, Container: f.Container}
	if name, known := names[f.PodUID]; known {
		row.Namespace, row.Name = name.Namespace, name.Name
	}
	return row
}

// lookWithin looks at a namespace for so long, and a moment more: what ends with its context says so.
func (j job) lookWithin(all context.Context, most time.Duration, f netns.Found, row nodeRow) nodeRow {
	ctx, cancel := context.WithTimeout(all, most)
	defer cancel()
	if seen, ended := inTime(ctx, func() nodeRow { return j.lookAt(ctx, f, row) }); ended {
		row = seen
	} else {
		row.State = unknown
	}
	if row.State == unknown && row.Why == "" {
		row.Why = fmt.Sprintf("it did not answer within %s", most)
		if all.Err() != nil {
			row.Why = fmt.Sprintf("it did not answer within %s: wait longer with --%s", j.timeout, timeoutFlag)
		}
	}
	return row
}

// inTime does something that is to end with a context, and waits a moment more: what ends with the context says so. What
// hangs, such as a kernel that does not answer, is left behind.
func inTime[T any](ctx context.Context, do func() T) (value T, ended bool) {
	done := make(chan T, 1)
	go func() { done <- do() }()
	select {
	case value = <-done:
		return value, true
	case <-ctx.Done():
	}
	select {
	case value = <-done:
		return value, true
	case <-time.After(time.Second):
		return value, false
	}
}

// lookAt looks at a namespace. Unknown, without a reason: it did not answer in time.
func (j job) lookAt(ctx context.Context, f netns.Found, row nodeRow) nodeRow {
	if row.Name == "" && (f.PodUID != "" || f.Container != "") {
		row.Name = f.Hostname()
	}
	target := j.target
	target.NetNS = f.Spec()
	in := j.on(target)
	o, err := in.Overview(ctx)
	switch {
	case errors.Is(err, intercept.ErrNotIntercepted):
		row.State, row.Why = bare(ctx, in)
	case errors.Is(err, dataplane.ErrHostNetNS):
		row.State, row.Why = leftAlone, strict.Reworded(err, target.NetNS, "it").Error()
	case errors.Is(err, context.DeadlineExceeded):
		row.State = unknown
	case err != nil:
		row.State, row.Why = unknown, err.Error()
	default:
		row.State, row.Summary = o.Verdict, o.Summary
		why := o.Causes
		if len(why) == 0 {
			why = o.Doubts
		}
		if n := len(why); n > 0 {
			row.Why = why[0]
			if n > 1 {
				row.Why += fmt.Sprintf("; and %d more", n-1)
			}
		}
	}
	if !f.IsThere() { // what was looked at may be another by now, of the same number
		row.State, row.Why, row.Summary = gone, "it ended while it was looked at", ""
	}
	return row
}

// bare says how it is with a namespace without rules of ours: trouble, if a proxy waits there for what nobody sends to
// it.
func bare(ctx context.Context, in plane) (state dataplane.Verdict, why string) {
	var waiting []sockets.Socket
	if err := in.Do(ctx, func() (err error) {
		waiting, err = sockets.List(intercept.TCP)
		return err
	}); err != nil {
		return leftAlone, "there are no rules of ours; whether a proxy waits there is not known: " + err.Error()
	}
	usual := intercept.Default()
	if !listensAt(waiting, usual.Outbound.Port) || !listensAt(waiting, usual.Inbound.Port) {
		return leftAlone, ""
	}
	others, err := in.Foreign(ctx)
	if meshes := beside.Meshes(others.Chains); err == nil && len(meshes) > 0 {
		return leftAlone, "there are no rules of ours, and those of another mesh: " + meshes[0].Title
	}
	return dataplane.NotIntercepted, fmt.Sprintf("there are no rules of ours, and a proxy waits at the ports %s and %s; "+
		"mesh-init apply puts them in force", usual.Outbound.Port, usual.Inbound.Port)
}

// listensAt is whether somebody listens at a port, where the proxy would.
func listensAt(all []sockets.Socket, port intercept.PortRange) bool {
	return slices.ContainsFunc(all, func(s sockets.Socket) bool {
		return s.Local.Port() >= port.First && s.Local.Port() <= port.Last
	})
}

// rowsText is a table of namespaces. Wide, it has a process of each, and all that status says first.
func rowsText(rows []nodeRow, wide bool) string {
	table := []cli.Row{{"NAMESPACE", "POD", "NETNS", "STATE", "WHY"}}
	if wide {
		table = []cli.Row{{"NAMESPACE", "POD", "NETNS", "PROCESS", "STATUS"}}
	}
	for _, r := range rows {
		row := cli.Row{r.Namespace, strict.OneLine(r.Name), strict.OneLine(r.NetNS), string(r.State), strict.OneLine(r.Why)}
		if wide {
			status := cmp.Or(r.Summary, strings.TrimSuffix(string(r.State)+": "+r.Why, ": "))
			row = append(row[:3], strict.OneLine(r.Process), strict.OneLine(status))
		}
		table = append(table, row)
	}
	return cli.Table(table)
}

// shortSpec is what --netns takes for a namespace: a name that people have given it, rather than a number, and a number
// rather than what container runtimes make up.
func shortSpec(f netns.Found) string {
	const longest = 20
	if name, is := strings.CutPrefix(f.Path, "/run/netns/"); is && len(name) <= longest {
		return name
	}
	return f.Spec()
}

// metricsOfAll counts namespaces by their states, in Prometheus' text format: no name is a label.
func metricsOfAll(rows []nodeRow) string {
	var text strings.Builder
	text.WriteString("# HELP mesh_namespaces Network namespaces of the node, by how it is with them.\n" +
		"# TYPE mesh_namespaces gauge\n")
	for _, s := range states() {
		fmt.Fprintf(&text, "mesh_namespaces{state=%q} %d\n", s.Verdict, countState(rows, s.Verdict))
	}
	return text.String()
}

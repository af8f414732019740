package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/peers/kuma"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// A dropIn is a program of another mesh that mesh-init stands in for, with its flags: as a verb, and where it is called
// by the program's name.
type dropIn struct {
	// name is the verb's.
	name string
	does string
	// called are the names of the program's file.
	called []string
	// flag is one by which a command line without a verb is known: the program is an image's entry point, and where that is
	// ours, its flags alone come here. Empty: none.
	flag string
	// mesh is the name of the mesh that it is of (beside.MeshOf, and as a dialect), of which rules may be there already.
	mesh string
	// program is the peer's program as its users call it, and changes are where a configuration differs from what it does,
	// on purpose: for migrate. Nil: it makes no rules.
	program string
	changes func(intercept.Config) []peers.Change
	// read makes sense of the command line.
	read func(args []string, w peers.World) (peers.Request, error)
	// after does what the peer's program does besides, once the request is carried out; nil: nothing.
	after func(p program, j job, r peers.Request) error
	// exits are the exit codes that differ from mesh-init's.
	exits []cli.Exit
	// netns is the flag that names the pod's namespace; "": it has none.
	netns string
}

// dropIns is the one table of them.
func dropIns() []dropIn {
	return []dropIn{
		istioIPTables(),
		linkerdInit(),
		linkerdValidator(),
		{
			name: "kuma", does: "as kumactl install transparent-proxy", called: []string{"kumactl"},
			mesh: "kuma", program: "kumactl install transparent-proxy", changes: kuma.Changes,
			read: kuma.Parse, after: program.validate,
		},
	}
}

// calledAs returns the arguments of a process, with the verb that the name of its file stands for.
func calledAs(args []string) []string {
	if len(args) == 0 {
		return nil
	}
	file, all := filepath.Base(args[0]), dropIns()
	for _, d := range all {
		if slices.Contains(d.called, file) {
			return append([]string{d.name}, args[1:]...)
		}
	}
	if len(args) > 1 && strings.HasPrefix(args[1], "-") {
		for _, d := range all {
			if d.flag != "" && slices.ContainsFunc(args, func(arg string) bool {
				return arg == d.flag || strings.HasPrefix(arg, d.flag+"=")
			}) {
				return append([]string{d.name}, args[1:]...)
			}
		}
	}
	return args[1:]
}

// takesOver takes the flag --take-over out of a command line, which each verb with a mesh has beside the peer's own.
func (d dropIn) takesOver(args []string) (others []string, takeOver bool) {
	for _, arg := range args {
		if d.mesh != "" && (arg == "--"+takeOverFlag || arg == "--"+takeOverFlag+"=true") {
			takeOver = true
		} else {
			others = append(others, arg)
		}
	}
	return others, takeOver
}

// allExits are the drop-in's and mesh-init's. What they advise is to be had by the flags of the drop-in.
func (d dropIn) allExits() []cli.Exit {
	there := "run it in the pod's namespace"
	if d.netns != "" {
		there = "name the pod's namespace with " + d.netns
	}
	all := append(slices.Clone(d.exits), exits()...)
	for i := range all {
		switch e := &all[i]; {
		case errors.Is(e.Err, intercept.ErrNotIntercepted):
			e.Remedy, e.Instead = "set the rules up there, or "+there, nil
		case errors.Is(e.Err, dataplane.ErrHostNetNS):
			e.Remedy = there + ", or insist with --" + allowHostFlag
		case errors.Is(e.Err, intercept.ErrLocked):
			e.Remedy = "wait for it"
		}
	}
	return all
}

// standIn does what a peer's command line asks for, and returns the exit code.
func (p program) standIn(ctx context.Context, d dropIn, args, env []string) int {
	args, takeOver := d.takesOver(args)
	r, err := d.read(args, p.world(ctx, env))
	r.Pod.TakeOver, r.Pod.InPlaceOf = r.Pod.TakeOver || takeOver, d.mesh
	s := settings{config: r.Config, target: r.Pod, output: cli.Text, foreign: noMesh, dryRun: r.DryRun,
		logFormat: r.LogFormat, logLevel: r.LogLevel, terminationLog: terminationLogPath}
	e := p.execution(ctx, s, r.Warnings)
	e.console.Name += " " + d.name
	e.verb = d.name
	e.console.Exits = d.allExits()
	if err != nil {
		return e.fail(misread(err))
	}
	code := e.run(true, func(j job) error { return j.standIn(d, r) })
	if code != cli.ExitDone || d.after == nil {
		return code
	}
	return e.run(true, func(j job) error { return d.after(p, j, r) })
}

// standIn does a peer's own action.
func (j job) standIn(d dropIn, r peers.Request) error {
	switch r.Action {
	case peers.Apply:
		return j.apply()
	case peers.Remove:
		if err := j.remove(); err != nil {
			return err
		}
		j.foreign = d.mesh
		return j.unseen(j.remove())
	case peers.Render:
		return j.render()
	case peers.Help:
		j.out.WriteString(r.Text)
		if d.mesh != "" {
			fmt.Fprintf(j.out, "\nA flag of all such verbs:\n      --%s   take over the rules of another mesh, whatever they are\n",
				takeOverFlag)
		}
	case peers.Nothing:
	}
	return nil
}

// misread is an error of reading a command line: the caller has to correct the line, unless all that is wrong is the
// namespace whose addresses were asked for.
func misread(err error) error {
	for _, e := range strict.Flatten(err) {
		_, ofFlag := errors.AsType[*peers.FlagError](e)
		if ofFlag || !errors.Is(e, dataplane.ErrNotNetNS) && !errors.Is(e, intercept.ErrPermission) {
			return cli.UsageError{Err: err}
		}
	}
	return err
}

// world is what a peer's command line is read in.
func (p program) world(ctx context.Context, env []string) peers.World {
	return peers.World{
		Environ:     env,
		User:        uint32(max(os.Geteuid(), 0)), // -1 where there are no users
		ReadFile:    func(name string) ([]byte, error) { return yamldoc.ReadFile(name, p.stdin) },
		Document:    yamldoc.Document,
		Addresses:   func(pod dataplane.Pod) ([]netip.Addr, error) { return pod.Addresses(ctx) },
		HasPrograms: dataplane.Backend.HasPrograms,
	}
}

package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
)

func removeVerb() verb {
	return verb{cli.Verb{
		Name: "remove", Does: "take the rules out",
		Also: []string{"delete", "uninstall", "clean", "cleanup", "clear", "flush", "reset", "stop"},
		More: "Other people's rules stay. It is no error if there are none of ours. With --foreign it takes out\n" +
			"the rules of another mesh instead, by the names of its chains, tables and comments: of all\n" +
			"tables and both families, or none.",
		Flags: removeFlags,
		Examples: `
  What is left of Istio in this pod? And then without it:
    mesh-init remove -n /run/netns/pod --foreign istio --dry-run
    mesh-init remove -n /run/netns/pod --foreign istio
`}, job.remove}
}

func removeFlags() []cli.Flag {
	return append(append(kernelFlags(), once(
		row(foreignFlag, noMesh+"|"+strings.Join(beside.MeshNames(), "|"), groupWhere, noMesh,
			"take out the rules of this other mesh, and not ours"))...), dryRun()...)
}

// noMesh is the value of --foreign that names none.
const noMesh = "none"

func (j job) remove() error {
	if j.foreign != noMesh {
		return j.removeForeign()
	}
	if j.dryRun {
		status, err := j.plane.Status(j.ctx)
		if err != nil && !errors.Is(err, intercept.ErrNotIntercepted) {
			return err
		}
		return j.print(struct {
			Removed bool     `json:"removed"`
			Parts   []string `json:"parts"`
		}{Parts: backendNames(status.Backends)}, func() string {
			if len(status.Backends) == 0 {
				return "nothing to remove\n"
			}
			return "would be removed: the rules of " + joinBackends(status.Backends) + "\n"
		})
	}
	removed, err := j.plane.Remove(j.ctx)
	if err != nil {
		return err
	}
	if _, err := j.plane.Status(j.ctx); errors.Is(err, intercept.ErrPermission) {
		j.log.WarnContext(j.ctx, "rules of ours that this user cannot see, if there are any, stay: "+
			strict.OneLine(err.Error()))
	}
	if b := j.target.Backend; b != "" && b != dataplane.BackendAuto {
		if _, err := j.plane.InForce(j.ctx); err == nil || errors.Is(err, dataplane.ErrNotKept) {
			j.log.WarnContext(j.ctx, fmt.Sprintf("rules of ours stay that are not of the backend %s: run mesh-init remove without "+
				"--%s", b, backendFlag))
		}
	}
	return j.print(struct {
		Removed bool `json:"removed"`
	}{removed}, func() string {
		if removed {
			return "removed\n"
		}
		return "nothing to remove\n"
	})
}

// unseen is the error of removing another mesh's rules, after ours. Where this user may not see all of them, and sees
// none, it is a warning, as with ours.
func (j job) unseen(err error) error {
	if !errors.Is(err, intercept.ErrPermission) {
		return err
	}
	mesh, _ := beside.MeshOf(j.foreign)
	seen, listing := j.plane.Foreign(j.ctx)
	if listing != nil || slices.ContainsFunc(seen.Chains, func(c beside.Foreign) bool {
		return slices.Contains(c.Owners, mesh.Title)
	}) {
		return fmt.Errorf("the rules of %s stay: %w", mesh.Title, err)
	}
	j.log.WarnContext(j.ctx, "rules of "+mesh.Title+", if there are any, stay: "+strict.OneLine(err.Error()))
	return nil
}

// removeForeign takes out the rules of another mesh, and shows what they are.
func (j job) removeForeign() error {
	mesh, _ := beside.MeshOf(j.foreign) // the flag's form has the names
	out, err := j.plane.RemoveForeign(j.ctx, mesh, j.dryRun)
	if err != nil {
		return err
	}
	return j.print(out, func() string {
		var text strings.Builder
		for _, part := range out.Parts {
			text.WriteString(strict.OneLine(part) + "\n")
		}
		switch {
		case len(out.Parts) == 0:
			text.WriteString("nothing of " + mesh.Title + " to remove\n")
		case out.Removed:
			text.WriteString("removed, all of it: the rules of " + mesh.Title + "\n")
		default:
			text.WriteString("nothing was removed (--dry-run)\n")
		}
		return text.String()
	})
}

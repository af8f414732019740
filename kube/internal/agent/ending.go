package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mesh-intercept/intercept/kube/internal/agent/keeper"
	"github.com/mesh-intercept/intercept/kube/internal/agent/kube"
	"github.com/mesh-intercept/intercept/kube/internal/conflist"
)

// remove takes out what was put in, unless another agent follows this one.
func (a *Agent) remove(cause error) error {
	switch {
	case errors.Is(cause, ErrSettings), errors.Is(cause, conflist.ErrReplaced):
		return nil
	case a.s.KeepOnExit && !a.isDeleted():
		a.log.Info("leaving the plugin and its entry in place (--keep-on-exit)")
		return nil
	}
	return Remove(a.s.Place, a.s.KeepBinary, a.log)
}

// askDaemonSet finds out whether the agent may read its DaemonSet: then it can tell,
// at the end, that it is deleted from that it is not to know.
func (a *Agent) askDaemonSet(ctx context.Context) {
	if a.s.DaemonSet == (kube.Name{}) {
		return
	}
	for ctx.Err() == nil {
		there, err := a.client.HasDaemonSet(ctx, a.s.DaemonSet)
		switch {
		case err == nil && there:
			a.readable.Store(true)
			return
		case err == nil:
			a.log.WarnContext(ctx, "there is no such DaemonSet", "daemonset", a.s.DaemonSet.String())
			return
		case ctx.Err() == nil:
			a.log.WarnContext(ctx, "the agent's DaemonSet cannot be read; when it is deleted, plugin and entry stay", "err", err)
		}
		wait(ctx, time.Minute, nil)
	}
}

// isDeleted reports whether the agent's DaemonSet is, and not this one pod of it. Its
// rights may be deleted before it.
func (a *Agent) isDeleted() bool {
	if !a.readable.Load() {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	there, err := a.client.HasDaemonSet(ctx, a.s.DaemonSet)
	switch {
	case errors.Is(err, kube.ErrForbidden):
		a.log.Info("the agent's rights are deleted, so it is uninstalled", "err", err)
		return true
	case err != nil:
		a.log.Warn("whether the agent's DaemonSet is deleted could not be found out", "err", err)
		return false
	case !there:
		a.log.Info("the agent's DaemonSet is deleted, so it is uninstalled", "daemonset", a.s.DaemonSet.String())
	}
	return !there
}

// Remove takes the entry out of the node's lists, and then the binary.
func Remove(p keeper.Place, keepBinary bool, log *slog.Logger) error {
	remove := p.Remove
	if keepBinary {
		remove = func() (conflist.Result, error) { return p.Conf.Uninstall(p.Entry.Type) }
	}
	res, err := remove()
	for _, step := range res.Steps {
		log.Info("took our entry out", "step", fmt.Sprintf("%T", step), "dir", p.Conf.Path)
	}
	return err
}

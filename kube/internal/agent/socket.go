package agent

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"time"

	"github.com/mesh-intercept/intercept/internal/cniwire"
)

// serveSocket answers plugins until ctx is done. If somebody removes the socket,
// another takes its place: plugins find it by its path alone.
func (a *Agent) serveSocket(ctx context.Context, l net.Listener) error {
	server := cniwire.Server{Pod: a.pods.Find, Ready: a.pods.Ready, Log: a.record}
	for {
		a.reachable.set(nil)
		until, lost := context.WithCancel(ctx)
		go func() {
			defer lost()
			for until.Err() == nil && !errors.Is(a.inPlace(l), fs.ErrNotExist) {
				wait(until, a.often, nil)
			}
		}()
		err := server.Serve(until, l)
		lost()
		if err != nil || ctx.Err() != nil {
			return err
		}
		a.log.WarnContext(ctx, "the agent's socket was removed; another takes its place", "socket", a.s.Conf.AgentSocket)
		for l = nil; l == nil; {
			if l, err = cniwire.Listen(a.s.Conf.AgentSocket); err != nil {
				a.reachable.set(err)
				wait(ctx, time.Second, nil)
			}
			if ctx.Err() != nil {
				return nil
			}
		}
	}
}

// inPlace notes whether plugins reach the agent.
func (a *Agent) inPlace(l net.Listener) error {
	err := cniwire.InPlace(l)
	a.reachable.set(err)
	return err
}

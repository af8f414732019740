// Package agent is the agent of a node: it keeps the CNI plugin installed,
// answers the plugin's questions, repairs running pods, and says how it is.
package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/kube/internal/agent/keeper"
	"github.com/mesh-intercept/intercept/kube/internal/agent/kube"
	"github.com/mesh-intercept/intercept/kube/internal/agent/metrics"
	"github.com/mesh-intercept/intercept/kube/internal/agent/probe"
	"github.com/mesh-intercept/intercept/kube/internal/agent/repair"
	"github.com/mesh-intercept/intercept/kube/internal/conflist"
	"github.com/mesh-intercept/intercept/kube/internal/web"
	"github.com/mesh-intercept/intercept/podspec"
)

// Settings say what the agent is to do.
type Settings struct {
	Place keeper.Place
	// Conf is what the entry of Place says.
	Conf cniconf.Conf
	Node string
	API  kube.Access
	// InitNames are globs of init containers that intercept.
	InitNames []string
	// Listen is the address of health and metrics.
	Listen string
	// AnswerSocket is the path of the UNIX socket at which root is answered, and AnswerListen the address at which
	// others are, over HTTPS. Empty: nobody is.
	AnswerSocket, AnswerListen string
	// MeshInit is the program that says how it is with a pod.
	MeshInit string
	// Taint is the key of a startup taint to take off the node once the agent
	// is ready. Empty: none.
	Taint string
	// Repair is whether running pods are repaired; DryRun says so instead.
	Repair, DryRun bool
	// Every is how often they are looked at, besides when they change.
	Every time.Duration
	Proc  string
	// KeepOnExit leaves entry and binary in place, as for an upgrade.
	KeepOnExit bool
	// DaemonSet is that of the agent: once it is deleted, KeepOnExit no longer holds. Its zero value: it is not known.
	DaemonSet kube.Name
	// Reread reads again what Place's Entry was made of, which may have changed. Nil: it cannot.
	Reread func() (conflist.Entry, error)
	// KeepBinary leaves the binary alone.
	KeepBinary bool
}

// Entry is the plugin's entry of a list: the fields given, and what the agent
// knows better.
func Entry(fields map[string]json.RawMessage, socket string) (conflist.Entry, cniconf.Conf, error) {
	all := map[string]json.RawMessage{}
	for name, value := range fields {
		switch name {
		case "type", "capabilities", "agentSocket", "cniVersion", "name":
			return conflist.Entry{}, cniconf.Conf{}, fmt.Errorf("%s: the agent sets it; leave it out", name)
		}
		all[name] = value
	}
	for name, value := range map[string]any{
		"type":         cniconf.PluginType,
		"capabilities": map[string]bool{cniconf.AnnotationsCapability: true, "dns": true},
		"agentSocket":  socket,
	} {
		raw, err := json.Marshal(value)
		if err != nil {
			return conflist.Entry{}, cniconf.Conf{}, err
		}
		all[name] = raw
	}
	text, err := json.Marshal(all)
	if err != nil {
		return conflist.Entry{}, cniconf.Conf{}, err
	}
	conf, err := cniconf.Parse(text)
	return conflist.Entry{Type: cniconf.PluginType, JSON: text, Versions: cniconf.Versions()},
		conf, err
}

// Agent is one run of it. Make it with [New].
type Agent struct {
	s       Settings
	log     *slog.Logger
	metrics *metrics.Metrics
	client  *kube.Client
	pods    *kube.Pods
	events  *kube.Events
	keeper  *keeper.Keeper
	changed chan struct{} // a pod has

	told    map[string]told     // by pod UID, what was last said about it
	repairs map[string]*repairs // by pod UID
	warned  map[string]string   // by pod UID, of what

	// What is in the way of readiness.
	probed, reachable, reread state
	readable                  atomic.Bool // the agent's DaemonSet
	seen                      seen
	often                     time.Duration // for what has no signal
}

// told is the last thing that was said about a pod, so that it is said once.
type told struct {
	state  repair.State
	result repair.Result
	err    string
}

var errNotProbed = errors.New("no ADD has been tried yet")

// New makes an agent. It does nothing yet.
func New(s Settings, log *slog.Logger) (*Agent, error) {
	client, err := kube.NewClient(s.API)
	if err != nil {
		return nil, err
	}
	a := &Agent{s: s, log: log, metrics: metrics.New(), client: client, changed: make(chan struct{}, 1),
		told: map[string]told{}, repairs: map[string]*repairs{}, often: time.Second,
		seen: seen{waiting: map[string]bool{}, added: map[string]bool{}}}
	a.probed.set(errNotProbed)
	a.events = kube.NewEvents(client, s.Node, log, a.metrics.EventsDropped.Inc)
	a.keeper = keeper.New(s.Place, log, func(reason string) { a.metrics.Writes.WithLabelValues(reason).Inc() })
	a.pods = kube.NewPods(client, s.Node, s.InitNames, func(p kube.Pod) {
		a.seen.pod(p, a.keeper.State() == nil && a.reachable.get() == nil)
		select {
		case a.changed <- struct{}{}:
		default: // a look is due already
		}
	})
	return a, nil
}

// ErrSettings is why an agent ends whose settings have changed: another is to be
// made of those.
var ErrSettings = errors.New("the plugin's settings have changed")

// Run does the agent's work until ctx is done, and then takes out what it has
// put in. It ends earlier only if it cannot listen, if its directories are not the
// node's any more, or with [ErrSettings].
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", a.s.Listen)
	if err != nil {
		return fmt.Errorf("health and metrics: %w", err)
	}
	socket, err := cniwire.Listen(a.s.Conf.AgentSocket)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	doors, err := a.openDoors(ctx)
	if err != nil {
		return errors.Join(err, listener.Close(), socket.Close())
	}
	a.log.InfoContext(ctx, "listening", "web", listener.Addr().String(), "socket", a.s.Conf.AgentSocket)

	// Plugins are answered until our entry is out.
	last, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var all sync.WaitGroup
	must := func(what string, f func(context.Context) error) {
		all.Go(func() {
			if err := f(last); err != nil {
				cancel(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	must("health and metrics", func(ctx context.Context) error {
		return web.ServeSmall(ctx, listener, web.Health(a.Ready, a.metrics.Handler()))
	})
	must("socket", func(ctx context.Context) error { return a.serveSocket(ctx, socket) })
	for _, d := range doors {
		must("answers", func(ctx context.Context) error {
			return web.Serve(ctx, d.listener, d.server, web.Limits{Each: d.each, Most: 64, End: 3 * time.Second})
		})
	}
	all.Go(func() { a.pods.Run(last) })
	all.Go(func() { a.events.Run(last) })
	all.Go(func() { a.probeLoop(ctx) })
	if a.s.Repair {
		all.Go(func() { a.repairLoop(ctx) })
	}
	if a.s.Taint != "" {
		all.Go(func() { a.taintLoop(ctx) })
	}
	if a.s.Reread != nil {
		all.Go(func() { a.rereadLoop(ctx, cancel) })
	}
	all.Go(func() { a.askDaemonSet(ctx) })
	if err := a.keeper.Run(ctx); err != nil { // and nobody writes the entry any more
		cancel(err)
	}
	a.metrics.Ready.Set(0)
	cause := context.Cause(ctx)
	err = a.remove(cause)
	stop()
	all.Wait()
	if !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}

// rereadLoop ends the agent when its settings have changed. Those with a mistake
// are no settings: the agent goes on, and says so.
func (a *Agent) rereadLoop(ctx context.Context, end context.CancelCauseFunc) {
	for ctx.Err() == nil {
		wait(ctx, 5*a.often, nil)
		entry, err := a.s.Reread()
		if a.reread.set(err) && err != nil {
			a.log.WarnContext(ctx, "the settings have changed, and the earlier ones stay in force", "err", err)
		}
		if err == nil && !bytes.Equal(entry.JSON, a.s.Place.Entry.JSON) {
			a.log.InfoContext(ctx, "starting anew, with other settings")
			end(ErrSettings)
			return
		}
	}
}

// Ready is nil if the next pod of this node can be intercepted, and the agent
// can answer for it. Else it says everything that is in the way.
func (a *Agent) Ready() error {
	part := func(what string, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	return errors.Join(part("conflist", a.keeper.State()), part("probe", a.probed.get()), part("runtime", a.seen.err()),
		part("socket", a.reachable.get()), part("settings", a.reread.get()), part("pods", a.pods.Ready()))
}

// record takes a line of the plugin's log.
func (a *Agent) record(r cniwire.Record, _ json.RawMessage) {
	a.metrics.Record(r)
	a.seen.call(r)
	level := slog.LevelInfo
	if level.UnmarshalText([]byte(r.Level)) != nil {
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{slog.String("from", cniconf.PluginType), slog.String("command", r.Command),
		slog.String("pod", r.PodNamespace+"/"+r.PodName)}
	for _, each := range [][2]string{{"result", r.Result}, {"reason", r.Reason}, {"err", r.Error}} {
		if each[1] != "" {
			attrs = append(attrs, slog.String(each[0], each[1]))
		}
	}
	if r.Result != "" {
		attrs = append(attrs, slog.Float64("seconds", r.Seconds))
	}
	a.log.LogAttrs(context.Background(), level, r.Message, attrs...)
}

// probeLoop tries an ADD as soon as everything is in place, often until one
// succeeds, and every now and then after that.
func (a *Agent) probeLoop(ctx context.Context) {
	var tried time.Time
	for ctx.Err() == nil {
		every := time.Minute
		if a.probed.get() != nil {
			every = 5 * time.Second
		}
		if a.keeper.State() == nil && time.Since(tried) >= every {
			a.probed.set(a.probe(ctx))
			tried = time.Now()
		}
		ready := 0.0
		if a.Ready() == nil {
			ready = 1
		}
		a.metrics.Ready.Set(ready)
		wait(ctx, 500*time.Millisecond, nil)
	}
}

func (a *Agent) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := probe.Add(ctx, filepath.Join(a.s.Place.Bin.Path, a.s.Place.Entry.Type), a.s.Place.Entry.JSON)
	if err != nil && ctx.Err() == nil {
		a.log.WarnContext(ctx, "no pod could be intercepted now", "err", err)
	}
	return err
}

// taintLoop takes the startup taint off, once all is ready.
func (a *Agent) taintLoop(ctx context.Context) {
	for ctx.Err() == nil {
		if a.Ready() == nil {
			removed, err := a.client.RemoveTaint(ctx, a.s.Node, a.s.Taint)
			if err == nil {
				if removed {
					a.log.InfoContext(ctx, "took the startup taint off the node", "taint", a.s.Taint, "node", a.s.Node)
				}
				return
			}
			a.log.WarnContext(ctx, "the startup taint is still on the node", "err", err)
			wait(ctx, 5*time.Second, nil)
			continue
		}
		wait(ctx, 500*time.Millisecond, nil)
	}
}

// repairLoop looks at the running pods when they are known, when they change,
// and every now and then.
func (a *Agent) repairLoop(ctx context.Context) {
	r := a.repairer()
	for ctx.Err() == nil {
		if a.pods.Ready() != nil {
			wait(ctx, 200*time.Millisecond, nil)
			continue
		}
		findings, err := r.Run(ctx, a.pods.All())
		if err != nil {
			a.log.WarnContext(ctx, "not all pods could be looked at", "err", err)
		}
		a.tell(ctx, findings)
		a.warn(ctx, findings, a.pods.Specs())
		wait(ctx, a.s.Every, a.changed)
		// What changes, mostly changes again at once.
		wait(ctx, time.Second, nil)
	}
}

// tell reports findings: each in the metrics, and what is new of them in the
// log and as an event.
func (a *Agent) tell(ctx context.Context, findings []repair.Finding) {
	count := map[repair.State]int{}
	now := map[string]told{}
	for _, f := range findings {
		count[f.State]++
		if f.State == repair.Missing || f.State == repair.Changed {
			a.metrics.Drift.WithLabelValues(string(f.State)).Inc()
		}
		if f.Result != repair.None {
			a.metrics.Repairs.WithLabelValues(string(f.Result)).Inc()
		}
		is := told{f.State, f.Result, fmt.Sprint(f.Err)}
		now[f.Pod.UID] = is
		event, ok := f.Event()
		if !ok || f.Result != repair.Repaired && a.told[f.Pod.UID] == is {
			continue
		}
		if f.Result == repair.Repaired {
			tell, more := a.repairsOf(f.Pod.UID).again(time.Now())
			if !tell {
				a.log.DebugContext(ctx, event.Note, "pod", f.Pod.String(), "reason", event.Reason)
				continue
			}
			event.Note += more
		}
		a.events.Write(event)
		level := slog.LevelInfo
		if f.Result != repair.Repaired {
			level = slog.LevelWarn
		}
		a.log.LogAttrs(ctx, level, event.Note, slog.String("pod", f.Pod.String()), slog.String("reason", event.Reason))
	}
	a.told = now
	maps.DeleteFunc(a.repairs, func(uid string, _ *repairs) bool { _, there := now[uid]; return !there })
	for _, s := range []repair.State{repair.Converged, repair.Missing, repair.Changed, repair.Refused, repair.Waiting,
		repair.Unknown} {
		a.metrics.Pods.WithLabelValues(string(s)).Set(float64(count[s]))
	}
}

func (a *Agent) repairsOf(uid string) *repairs {
	r := a.repairs[uid]
	if r == nil {
		r = &repairs{}
		a.repairs[uid] = r
	}
	return r
}

// warn says which pods let a container pass as the proxy, or past it: each in the
// metrics, and what is new in the log. Nearly every pod does that was not made with
// this in mind, so it is no event.
func (a *Agent) warn(ctx context.Context, findings []repair.Finding, specs map[string]podspec.Pod) {
	count := map[string]int{}
	now := map[string]string{}
	for _, f := range findings {
		spec, ok := specs[f.Pod.UID]
		if f.Config.Backstop == "" || !ok {
			continue // nobody knows what it asks for, or it has gone since
		}
		var texts []string
		for _, w := range podspec.Lint(f.Config, spec) {
			count[w.ID]++
			texts = append(texts, w.String())
		}
		now[f.Pod.UID] = strings.Join(texts, "; ")
		if len(texts) > 0 && a.warned[f.Pod.UID] != now[f.Pod.UID] {
			a.log.InfoContext(ctx, "a container can pass as the proxy, or past it", "pod", f.Pod.String(), "warnings", texts)
		}
	}
	a.warned = now
	for _, w := range podspec.Hazards() {
		a.metrics.Warnings.WithLabelValues(w.ID).Set(float64(count[w.ID]))
	}
}

// wait returns after a time, or at a signal, or when ctx is done.
func wait(ctx context.Context, d time.Duration, signal <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-signal:
	}
}

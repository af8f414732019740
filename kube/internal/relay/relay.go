// Package relay carries out kubelet's probes inside the pod: see docs/probes.md.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"sync"
	"time"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/kube/internal/web"
	"github.com/mesh-intercept/intercept/podspec/probes"
)

// Settings are a relay's.
type Settings struct {
	// Probes are all that it carries out. Nothing else can be asked for.
	Probes probes.Set
	// Pod is the pod's address at which kubelet probes: its first.
	Pod netip.Addr
	// Passthrough are the sources whose connections are not captured, at most one of
	// each family.
	Passthrough []netip.Addr
	// Drain is how long the relay waits, once it is to end, for the preStop hooks that
	// it has to carry out.
	Drain time.Duration
	Log   *slog.Logger
}

const (
	// maxHook is how long a hook may take. kubelet mostly gives up sooner: at the end of
	// the pod's terminationGracePeriodSeconds.
	maxHook = time.Hour
	// maxReason is how long a reason may be. An app can choose its text.
	maxReason = 500
)

// Relay answers probes. Make it with [New].
type Relay struct {
	s       Settings
	dialer  dialer
	metrics metrics
	all     map[string]*probe // by path
	// stopping counts the preStop hooks that have not been carried out.
	stopping sync.WaitGroup
}

// probe is one probe, and how it is at the moment.
type probe struct {
	probes.Probe

	mu sync.Mutex
	// running is the one attempt that is under way, or nil.
	running *attempt
	// asked is whether there was an attempt, and last how it ended.
	asked bool
	last  error
	done  func() // a preStop hook has been carried out
}

// attempt is one time that the app is asked. All who ask meanwhile share it: so
// strangers can neither make the app busy nor keep kubelet waiting.
type attempt struct {
	ended chan struct{}
	err   error // once ended
}

// New makes a relay.
func New(s Settings) *Relay {
	r := &Relay{s: s, dialer: newDialer(s.Pod, s.Passthrough), metrics: newMetrics(), all: map[string]*probe{}}
	for _, p := range s.Probes.Probes {
		entry := &probe{Probe: p, done: func() {}}
		if p.Kind == probes.PreStop {
			r.stopping.Add(1)
			entry.done = sync.OnceFunc(r.stopping.Done)
		}
		r.all[p.At()] = entry
		r.metrics.announce(p)
	}
	return r
}

// Serve answers on l until ctx is done. It then goes on for as long as preStop
// hooks are to come, and at most for [Settings].Drain.
func (r *Relay) Serve(ctx context.Context, l net.Listener) error {
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	hooks := make(chan struct{})
	go func() { r.stopping.Wait(); close(hooks) }()
	go func() {
		select {
		case <-ctx.Done():
		case <-serving.Done():
			return
		}
		timer := time.NewTimer(r.s.Drain)
		defer timer.Stop()
		select {
		case <-hooks:
		case <-timer.C:
		}
		end()
	}()
	// ReadTimeout would end the requests' contexts, too: see [Relay.handle]. Connections
	// are for one request each.
	s := &http.Server{Handler: r, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 8 << 10,
		ErrorLog: slog.NewLogLogger(r.s.Log.Handler(), slog.LevelDebug)}
	s.SetKeepAlivesEnabled(false)
	err := web.Serve(serving, l, s, web.Limits{Each: 64 + len(r.all), Most: 1024, End: 5 * time.Second})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // kubelet has gone on, too
	}
	return err
}

// ServeHTTP implements [http.Handler].
func (r *Relay) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	control := http.NewResponseController(w)
	if req.ContentLength != 0 { // the server would wait for its end
		_ = control.SetReadDeadline(time.Now())
		r.answer(w, control, http.StatusBadRequest, "a probe has no body")
		return
	}
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		r.answer(w, control, http.StatusMethodNotAllowed, "a probe is a GET")
		return
	}
	switch p := r.all[req.URL.Path]; {
	case p != nil:
		r.relay(w, control, req, p)
	case req.URL.Path == "/healthz":
		r.answer(w, control, http.StatusOK, "ok")
	case req.URL.Path == "/metrics":
		_ = control.SetWriteDeadline(time.Now().Add(writeTime))
		r.metrics.handler().ServeHTTP(w, req)
	default:
		r.answer(w, control, http.StatusNotFound, "no probe of this pod")
	}
}

// writeTime is how long a peer may take to read an answer.
const writeTime = 10 * time.Second

func (r *Relay) answer(w http.ResponseWriter, control *http.ResponseController, status int, text string) {
	_ = control.SetWriteDeadline(time.Now().Add(writeTime))
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // who asked has gone
}

func (r *Relay) relay(w http.ResponseWriter, control *http.ResponseController, req *http.Request, p *probe) {
	a := r.join(p, req.UserAgent())
	select {
	case <-a.ended:
	case <-req.Context().Done():
		return
	}
	switch {
	case a.err == nil:
		r.answer(w, control, http.StatusOK, "ok")
	case p.Kind.IsHook():
		// kubelet looks at no status of a hook: what fails it is no answer.
		panic(http.ErrAbortHandler)
	default:
		r.answer(w, control, http.StatusServiceUnavailable, reason(a.err))
	}
}

// join is the attempt that is under way, or a new one. It has the probe's own
// timeout, and goes on if who asked first goes away: others may wait for it.
func (r *Relay) join(p *probe, agent string) *attempt {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil {
		return p.running
	}
	a := &attempt{ended: make(chan struct{})}
	p.running = a
	limit := maxHook
	if !p.Kind.IsHook() {
		limit = time.Duration(p.TimeoutSeconds) * time.Second
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		begun := time.Now()
		err := r.dialer.ask(ctx, p.Probe, agentOf(agent, p.Kind))
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("no answer within %v", limit)
		}
		r.metrics.count(p.Probe, err, time.Since(begun))
		p.mu.Lock()
		defer p.mu.Unlock()
		r.note(p, err)
		p.running, a.err = nil, err
		close(a.ended)
		p.done()
	}()
	return a
}

// note logs an outcome that is another than the last: kubelet does not show the
// reason that it is told. p.mu is held.
func (r *Relay) note(p *probe, err error) {
	first := !p.asked
	was := p.last
	p.asked, p.last = true, err
	log := r.s.Log.With("container", p.Container, "probe", string(p.Kind), "asks", string(p.Handler), "port", p.Port)
	switch {
	case err != nil && (first || was == nil || reason(was) != reason(err)):
		log.Warn("probe fails", "reason", reason(err))
	case err == nil && (first || was != nil):
		log.Info("probe succeeds")
	}
}

// reason is an error as it is told and logged: on one line, and not too long.
func reason(err error) string {
	text := err.Error()
	if len(text) > maxReason {
		text = text[:maxReason] + "…"
	}
	return strict.OneLine(text)
}

// agentOf is the User-Agent to send: what kubelet says of itself, since apps tell
// probes from users by it.
func agentOf(agent string, k probes.Kind) string {
	if regexp.MustCompile(`^kube-(probe|lifecycle)/[0-9]{1,3}\.[0-9]{1,3}\+?$`).MatchString(agent) {
		return agent
	}
	if k.IsHook() {
		return "kube-lifecycle/mesh-probe"
	}
	return "kube-probe/mesh-probe"
}

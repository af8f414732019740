// Package answer answers questions about the pods of a node: with what mesh-init says in their network namespaces, and
// with what they ask for, which mesh-init cannot know.
package answer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/kube/internal/agent/kube"
	"github.com/mesh-intercept/intercept/kube/internal/agent/repair"
	"github.com/mesh-intercept/intercept/kube/internal/agent/sandbox"
	"github.com/mesh-intercept/intercept/kube/internal/answers"
)

// Server answers.
type Server struct {
	// Node is the node's name.
	Node string
	// Pods are those of the node, and Ready is nil once they are known.
	Pods  func() []kube.Pod
	Ready func() error
	// Repairer says what pods ask for, and finds their sandboxes. Nothing is repaired.
	Repairer repair.Repairer
	// Program is mesh-init's path.
	Program string
	// Slots is how many questions are answered at a time, by its capacity; the others wait.
	Slots chan struct{}
	// Follows is the same for questions whose answers go on.
	Follows chan struct{}
	// Count counts a question by its verb and by what became of it.
	Count func(verb, result string)
}

// longest is how long a question may take to answer, the wait for others included.
const longest = 90 * time.Second

// Handler serves questions. allow says whether who asks may have what is asked for; its error is an [answers.Refusal].
func (s Server) Handler(allow func(*http.Request, answers.Access) error) http.Handler {
	mux := http.NewServeMux()
	serve := func(verb, pattern string, access func(*http.Request) answers.Access,
		do func(context.Context, *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), longest)
			defer cancel()
			err := allow(r.WithContext(ctx), access(r))
			var answer any
			if err == nil {
				answer, err = s.inTurn(ctx, r, do)
			}
			s.Count(verb, write(w, answer, err))
		})
	}
	follow := func(v answers.Verb) {
		mux.HandleFunc(pattern(v), func(w http.ResponseWriter, r *http.Request) {
			s.Count(v.Name, s.follow(v, w, r, allow))
		})
	}
	serve("list", "GET /v1/pods", func(r *http.Request) answers.Access {
		return answers.Access{Verb: "list", Namespace: r.FormValue("namespace")}
	}, func(ctx context.Context, r *http.Request) (any, error) { return s.list(ctx, r.FormValue("namespace")) })
	for _, v := range answers.Verbs() {
		if v.Follows {
			follow(v)
			continue
		}
		serve(v.Name, pattern(v), func(r *http.Request) answers.Access {
			return v.Access(r.PathValue("namespace"), r.PathValue("pod"))
		}, func(ctx context.Context, r *http.Request) (any, error) { return s.answer(ctx, v, r) })
	}
	return mux
}

func pattern(v answers.Verb) string {
	return v.Method() + " /v1/namespaces/{namespace}/pods/{pod}/" + v.Name
}

// inTurn does what is asked for when others are done.
func (s Server) inTurn(ctx context.Context, r *http.Request, do func(context.Context, *http.Request) (any, error)) (any,
	error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	select {
	case s.Slots <- struct{}{}:
	case <-ctx.Done():
		return nil, answers.Refuse(http.StatusServiceUnavailable, "too many ask at the same time; try again")
	}
	defer func() { <-s.Slots }()
	return do(ctx, r)
}

// ready has who asks try again while the agent is not ready.
func (s Server) ready() error {
	if err := s.Ready(); err != nil {
		return answers.Refuse(http.StatusServiceUnavailable, "%v", err)
	}
	return nil
}

// write writes an answer, and returns what became of the question.
func write(w http.ResponseWriter, answer any, err error) (result string) {
	w.Header().Set("Content-Type", "application/json")
	result = "answered"
	if err != nil {
		refusal, is := errors.AsType[*answers.Refusal](err)
		result = "refused"
		if !is {
			refusal, result = answers.Refuse(http.StatusInternalServerError, "%v", err), "failed"
		}
		w.WriteHeader(refusal.Status)
		answer = refusal
	}
	_ = json.NewEncoder(w).Encode(answer) // who asked has gone
	return result
}

// list looks at all pods of the node, or of a namespace.
func (s Server) list(ctx context.Context, namespace string) (answers.List, error) {
	all := s.Pods()
	if namespace != "" {
		all = slices.DeleteFunc(all, func(p kube.Pod) bool { return p.Namespace != namespace })
	}
	looks, err := s.look(ctx, all)
	l := answers.List{Pods: []answers.Row{}}
	for _, look := range looks {
		l.Pods = append(l.Pods, look.row)
	}
	answers.Sort(l.Pods)
	return l, err
}

// look is how a pod was found.
type look struct {
	row answers.Row
	// config is what it asks for, or else what its rules were made of. Nil: neither is known.
	config *intercept.Config
	// open is whether what is in the pod's namespace is still to be looked at.
	open bool
}

// look looks at pods: what they ask for, and what is in force.
func (s Server) look(ctx context.Context, all []kube.Pod) ([]look, error) {
	r := s.Repairer
	r.DryRun = true
	findings, err := r.Run(ctx, all)
	if err != nil {
		return nil, err
	}
	looks := make([]look, len(all))
	var open []string // pods of which what they ask for does not say it all
	for i, p := range all {
		looks[i].row = answers.Row{Namespace: p.Namespace, Name: p.Name, Node: s.Node, State: answers.LeftAlone,
			Why: r.Aside(p)}
		f := slices.IndexFunc(findings, func(f repair.Finding) bool { return f.Pod.UID == p.UID })
		if f >= 0 {
			looks[i].row.State, looks[i].row.Why = stateOf(findings[f])
			if findings[f].Config.Backstop != "" {
				looks[i].config = &findings[f].Config
			}
		}
		looks[i].open = !p.Finished && !p.Facts.HostNetwork && (f < 0 || looks[i].row.State == answers.Intercepting)
		if looks[i].open {
			open = append(open, p.RuntimeUID)
		}
	}
	if len(open) == 0 {
		return looks, nil
	}
	sandboxes, err := r.Find(open)
	defer func() {
		for _, s := range sandboxes {
			_ = s.Close() // it was only read
		}
	}()
	unopened := map[string]error{}
	for _, e := range strict.Flatten(err) {
		failed, of := errors.AsType[*sandbox.Error](e)
		if !of {
			return nil, err
		}
		unopened[failed.UID] = failed.Err
	}
	for i, p := range all {
		l := &looks[i]
		switch in := sandboxes[p.RuntimeUID]; {
		case !l.open:
		case unopened[p.RuntimeUID] != nil:
			l.row.State, l.row.Why = answers.Unknown, unopened[p.RuntimeUID].Error()
		case in == nil:
			l.row.State, l.row.Why = answers.Waiting, "no process of it is there"
		default:
			l.glance(ctx, p, in)
		}
	}
	return looks, nil
}

// stateOf says a finding in the words of answers.
func stateOf(f repair.Finding) (answers.State, string) {
	why := ""
	if f.Err != nil {
		why = f.Err.Error()
	}
	switch f.State {
	case repair.Missing:
		return answers.NotIntercepted,
			"it asks for interception, and has no rules; the agent repairs that unless told not to"
	case repair.Changed:
		return answers.Changed, differences(f.Differences)
	case repair.Refused:
		return answers.Refused, why
	case repair.Waiting:
		return answers.Waiting, "it has no process yet"
	case repair.Converged:
		return answers.Intercepting, ""
	case repair.Unknown:
	}
	return answers.Unknown, why
}

func differences(all []intercept.Difference) string {
	if len(all) == 0 {
		return ""
	}
	return dataplane.Differences(all)
}

// glance looks into a pod's namespace.
func (l *look) glance(ctx context.Context, p kube.Pod, in repair.Sandbox) {
	o, err := dataplane.Pod{NetNS: in.NetNS(), IsPod: true}.Overview(ctx)
	switch {
	case errors.Is(err, intercept.ErrNotIntercepted) && l.config != nil:
		l.row.State, l.row.Why = answers.NotIntercepted, "somebody has just taken its rules out"
		return
	case errors.Is(err, intercept.ErrNotIntercepted) && p.Facts.InitContainer:
		l.row.State, l.row.Why = answers.NotIntercepted, "its init container should have intercepted it, and has not"
		return
	case errors.Is(err, intercept.ErrNotIntercepted): // nobody wants it to be
		return
	case err != nil:
		l.row.State, l.row.Why = answers.Unknown, strict.Reworded(err, in.NetNS(), "of the pod").Error()
		return
	}
	l.row.State, l.row.Why = answers.State(o.Verdict), ""
	if n := len(o.Causes); n > 0 {
		l.row.Why = o.Causes[0]
		if n > 1 {
			l.row.Why += fmt.Sprintf("; and %d more", n-1)
		}
	}
	if l.config == nil && o.InForce != nil {
		l.config = &o.InForce.Config
	}
}

// answer has mesh-init carry out a verb in a pod's namespace.
func (s Server) answer(ctx context.Context, v answers.Verb, r *http.Request) (answers.Answer, error) {
	args, err := flags(v, r)
	if err != nil {
		return answers.Answer{}, err
	}
	stdout, stderr := &limited{}, &limited{}
	a, err := s.inPod(ctx, v, r, args, stdout, stderr)
	a.Stdout, a.Stderr = stdout.String(), stderr.String()
	return a, err
}

// inPod runs mesh-init in a pod's namespace. The answer says how it is with the pod, and how mesh-init ended.
func (s Server) inPod(ctx context.Context, v answers.Verb, r *http.Request, args []string, stdout, stderr io.Writer) (
	answers.Answer, error) {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	all := s.Pods()
	i := slices.IndexFunc(all, func(p kube.Pod) bool { return p.Namespace == namespace && p.Name == name })
	if i < 0 {
		return answers.Answer{}, answers.Refuse(http.StatusNotFound, "node %s has no pod %s/%s", s.Node, namespace, name)
	}
	pod := all[i]
	looks, err := s.look(ctx, []kube.Pod{pod})
	if err != nil {
		return answers.Answer{}, err
	}
	a := answers.Answer{Row: looks[0].row}
	if pod.Finished || pod.Facts.HostNetwork || a.State == answers.Waiting {
		return answers.Answer{}, answers.Refuse(http.StatusConflict, "%s", a.Row)
	}
	if v.Name == "explain" && looks[0].config == nil {
		return answers.Answer{}, answers.Refuse(http.StatusConflict, "%s; so there is no configuration to explain", a.Row)
	}
	sandboxes, err := s.Repairer.Find([]string{pod.RuntimeUID})
	in, there := sandboxes[pod.RuntimeUID]
	if !there {
		return answers.Answer{}, answers.Refuse(http.StatusConflict, "%s/%s: no process of it is there any more (%v)",
			namespace, name, cmp.Or(err, errGone))
	}
	defer func() { _ = in.Close() }() // it was only read
	a.Exit, err = s.run(ctx, v, args, in, looks[0].config, stdout, stderr)
	return a, err
}

var errGone = errors.New("it has ended")

// maxFlag is longer than any value that makes sense, in bytes.
const maxFlag = 4096

// flags are what a question says of the verb, as arguments.
func flags(v answers.Verb, r *http.Request) ([]string, error) {
	values := r.URL.Query()
	args, names := []string{v.Name}, make([]string, len(v.Flags))
	for i, f := range v.Flags {
		names[i] = f.Name
		for _, text := range values[f.Name] {
			if len(text) > maxFlag || strings.ContainsRune(text, 0) {
				return nil, answers.Refuse(http.StatusBadRequest, "%s: too long, or not a text", f.Name)
			}
			args = append(args, "--"+f.Name+"="+text)
		}
		delete(values, f.Name)
	}
	for name := range values {
		return nil, answers.Refuse(http.StatusBadRequest, "%s takes no %q here; it takes %s", v.Name, strict.Clip(name),
			strings.Join(names, ", "))
	}
	return args, nil
}

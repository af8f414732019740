// Package sweep finds pods of labelled namespaces that have no sidecar and should: they
// were created while the API server did not ask the webhook.
package sweep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/mesh-intercept/intercept/kube/internal/injector/admit"
	"github.com/mesh-intercept/intercept/podspec"
)

// page is how many pods are listed at a time.
const page = 100

// State is how a pod of a labelled namespace is found.
type State string

// The states.
const (
	Injected State = "injected"
	Skipped  State = "skipped" // it would be left alone
	Missing  State = "missing" // it should have a sidecar
	Refused  State = "refused" // it would not be created today
)

// States are all states.
func States() []State { return []State{Injected, Skipped, Missing, Refused} }

// Eviction is what came of one.
type Eviction string

// What comes of evictions.
const (
	Evicted Eviction = "evicted"
	Blocked Eviction = "blocked" // by a PodDisruptionBudget
	Failed  Eviction = "failed"
)

// Evictions are all of them.
func Evictions() []Eviction { return []Eviction{Evicted, Blocked, Failed} }

// Sweeper looks at running pods. It is for the leader. All fields but Evict have to be set.
type Sweeper struct {
	// Cached reads namespaces and webhook configurations, and API pods.
	Cached, API client.Reader
	// Client evicts.
	Client client.Client
	// Would says what would become of a pod if it was created now.
	Would func(ctx context.Context, namespace string, pod []byte) admit.Outcome
	// Excluded are namespaces that are not looked at.
	Excluded []string
	// Config is the name of the mutating webhook configuration.
	Config string
	// Evict is whether pods without a sidecar are evicted, so that their owners replace them.
	Evict bool
	Every time.Duration
	Log   *slog.Logger
	// Event tells of a pod what kubectl describe is to show.
	Event func(pod *corev1.Pod, kind, reason, note string)
	// Count is told how many pods each state has after a look at all of them, and Moved
	// what came of an eviction.
	Count func(map[State]int)
	Moved func(Eviction)

	told    map[types.UID]State     // of pods that have had their event
	evicted map[types.UID]time.Time // by owner: when one of its pods was evicted last
}

// again is how soon after an eviction somebody looks again.
const again = 15 * time.Second

// Run looks at all pods until ctx is done.
func (s *Sweeper) Run(ctx context.Context) {
	s.told, s.evicted = map[types.UID]State{}, map[types.UID]time.Time{}
	for {
		moved, err := s.Sweep(ctx)
		if err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "running pods could not be looked at", "err", err)
		}
		wait := s.Every
		if moved {
			wait = min(wait, again)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// owned is what is known of one workload's pods.
type owned struct {
	missing []*corev1.Pod
	unready int // of the others
}

// Sweep looks at all pods once. It returns whether a pod was evicted.
func (s *Sweeper) Sweep(ctx context.Context) (moved bool, err error) {
	namespaces := &metav1.PartialObjectMetadataList{}
	namespaces.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NamespaceList"))
	if err := s.Cached.List(ctx, namespaces, client.MatchingLabels{admit.LabelInject: admit.Enabled}); err != nil {
		return false, fmt.Errorf("listing namespaces: %w", err)
	}
	counts, seen := map[State]int{}, map[types.UID]State{}
	workloads := map[types.UID]*owned{}
	for _, ns := range namespaces.Items {
		if slices.Contains(s.Excluded, ns.Name) {
			continue
		}
		if err := s.namespace(ctx, ns.Name, counts, seen, workloads); err != nil {
			return false, fmt.Errorf("listing pods of namespace %s: %w", ns.Name, err)
		}
	}
	s.told = seen
	s.Count(counts)
	if !s.Evict || !s.asked(ctx) {
		return false, nil
	}
	for owner, w := range workloads {
		moved = s.evict(ctx, owner, w) || moved
	}
	return moved, nil
}

// asked reports whether the API server has somebody to ask about new pods.
func (s *Sweeper) asked(ctx context.Context) bool {
	config := &admissionv1.MutatingWebhookConfiguration{}
	err := s.Cached.Get(ctx, types.NamespacedName{Name: s.Config}, config)
	return err == nil && len(config.Webhooks) > 0 && len(config.Webhooks[0].ClientConfig.CABundle) > 0
}

func (s *Sweeper) namespace(ctx context.Context, name string, counts map[State]int, seen map[types.UID]State,
	workloads map[types.UID]*owned,
) error {
	for next := ""; ; {
		pods := &corev1.PodList{}
		err := s.API.List(ctx, pods, client.InNamespace(name), client.Limit(page), client.Continue(next))
		if err != nil {
			return err
		}
		for i := range pods.Items {
			p := &pods.Items[i]
			if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed || p.DeletionTimestamp != nil {
				continue
			}
			state, says := s.state(ctx, p)
			counts[state]++
			seen[p.UID] = state
			if owner := metav1.GetControllerOf(p); owner != nil && replaces(owner.Kind) {
				if workloads[owner.UID] == nil {
					workloads[owner.UID] = &owned{}
				}
				w := workloads[owner.UID]
				if state == Missing {
					w.missing = append(w.missing, p.DeepCopy())
				} else if !ready(p) {
					w.unready++
				}
			}
			if s.told[p.UID] != state {
				s.tell(ctx, p, state, says)
			}
		}
		if next = pods.Continue; next == "" {
			return nil
		}
	}
}

// replaces reports whether a kind of owner makes another pod for one that is evicted,
// and counts that as no failure.
func replaces(kind string) bool {
	return slices.Contains([]string{"ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController"}, kind)
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// state is how a pod is found, and why.
func (s *Sweeper) state(ctx context.Context, p *corev1.Pod) (State, string) {
	switch {
	case p.Annotations[podspec.DefaultPrefix+"/"+podspec.Injected] != "":
		return Injected, ""
	case p.Labels[admit.LabelInject] == "false":
		return Skipped, "its label " + admit.LabelInject + " is false"
	}
	text, err := json.Marshal(p)
	if err != nil {
		return Refused, err.Error()
	}
	switch o := s.Would(ctx, p.Namespace, text); o.Result {
	case admit.Injected:
		return Missing, "the webhook was not asked when it was created"
	case admit.Skipped:
		return Skipped, o.Says
	default:
		return Refused, o.Says
	}
}

// remedy is how a pod gets its sidecar.
func remedy(p *corev1.Pod) string {
	if metav1.GetControllerOf(p) == nil {
		return "delete it, and create it again"
	}
	return "delete it, and its owner makes one that has"
}

func (s *Sweeper) tell(ctx context.Context, p *corev1.Pod, state State, says string) {
	switch state {
	case Injected:
	case Skipped:
		s.Event(p, corev1.EventTypeNormal, "SidecarSkipped", "It has no sidecar: "+says)
	case Missing:
		s.Log.WarnContext(ctx, "a pod has no sidecar", "namespace", p.Namespace, "pod", p.Name, "why", says)
		s.Event(p, corev1.EventTypeWarning, "SidecarMissing", "It has no sidecar: "+says+"; "+remedy(p))
	case Refused:
		s.Log.WarnContext(ctx, "a pod has no sidecar, and would be refused now", "namespace", p.Namespace, "pod", p.Name,
			"why", says)
		s.Event(p, corev1.EventTypeWarning, "SidecarMissing", "It has no sidecar, and would be refused if it was created now: "+says)
	}
}

// evict evicts one pod of a workload, if all its others are ready. A workload whose new
// pods come without a sidecar, too, is left alone.
func (s *Sweeper) evict(ctx context.Context, owner types.UID, w *owned) bool {
	if len(w.missing) == 0 || w.unready > 0 {
		return false
	}
	slices.SortFunc(w.missing, func(a, b *corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })
	if last, ok := s.evicted[owner]; ok && w.missing[0].CreationTimestamp.After(last) {
		return false
	}
	// One that is not ready does nobody any good: it goes first.
	p := w.missing[0]
	for _, other := range w.missing {
		if !ready(other) {
			p = other
		}
	}
	err := s.Client.SubResource("eviction").Create(ctx, p, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}}})
	switch {
	case err == nil:
		s.evicted[owner] = time.Now()
		s.Moved(Evicted)
		s.Log.InfoContext(ctx, "a pod without a sidecar is evicted", "namespace", p.Namespace, "pod", p.Name)
		s.Event(p, corev1.EventTypeNormal, "SidecarEviction", "It has no sidecar, and is evicted, so that its owner makes one that has")
		return true
	case apierrors.IsTooManyRequests(err):
		s.Moved(Blocked)
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err): // it has gone by itself
	case !errors.Is(err, context.Canceled):
		s.Moved(Failed)
		s.Log.WarnContext(ctx, "a pod could not be evicted", "namespace", p.Namespace, "pod", p.Name, "err", err)
	}
	return false
}

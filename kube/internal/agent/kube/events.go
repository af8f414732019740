package kube

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// Controller is the name under which the agent writes events.
const Controller = "intercept.mesh/mesh-cni-agent"

// Event is something that happened to a pod, as kubectl describe shows it.
type Event struct {
	Pod     Pod
	Warning bool
	Action  string // what was done, in one word: Repair
	Reason  string // why, in one word: RulesRepaired
	Note    string // in a sentence
}

// Events writes events without keeping anyone waiting.
type Events struct {
	client  *Client
	node    string
	log     *slog.Logger
	dropped func()
	queue   chan Event
}

// NewEvents returns a writer of events; [Events.Run] writes them. dropped is
// called for each that is lost.
func NewEvents(c *Client, node string, log *slog.Logger, dropped func()) *Events {
	return &Events{client: c, node: node, log: log, dropped: dropped, queue: make(chan Event, 256)}
}

// Write queues an event. If too many wait because the API server is away, it
// is dropped: the log and the metrics have it, too.
func (e *Events) Write(event Event) {
	select {
	case e.queue <- event:
	default:
		e.dropped()
	}
}

// Run writes events until ctx is done.
func (e *Events) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-e.queue:
			if err := e.post(ctx, event); err != nil && ctx.Err() == nil {
				e.dropped()
				e.log.WarnContext(ctx, "an event could not be written", "pod", event.Pod.String(), "reason", event.Reason, "err",
					err)
			}
		}
	}
}

func (e *Events) post(ctx context.Context, event Event) error {
	ctx, cancel := e.client.within(ctx)
	defer cancel()
	object := event.object(e.node, time.Now())
	return e.client.events.Post().Namespace(object.Namespace).Resource("events").Body(object).Do(ctx).Error()
}

// object is an event as the API has it.
func (e Event) object(node string, now time.Time) *eventsv1.Event {
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	const longest = 1024 // the API refuses longer notes
	note := strict.OneLine(e.Note)
	if len(note) > longest {
		note = strings.ToValidUTF8(note[:longest-3], "") + "…"
	}
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: e.Pod.Namespace, Name: fmt.Sprintf("%.200s.%x", e.Pod.Name, now.UnixNano())},
		EventTime:  metav1.NewMicroTime(now), ReportingController: Controller, ReportingInstance: node,
		Action: e.Action, Reason: e.Reason, Type: kind, Note: note,
		// kubectl describe looks for a static pod's events under kubelet's UID.
		Regarding: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: e.Pod.Namespace, Name: e.Pod.Name,
			UID: uid(e.Pod.RuntimeUID)},
	}
}

package injector

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/kube/internal/injector/admit"
)

const (
	// controllerName is who writes events.
	controllerName = "intercept.mesh/mesh-injector"
	maxNote        = 1024 // the API refuses longer notes
)

// news writes events about what was skipped or refused, without keeping a request
// waiting.
type news struct {
	reader   client.Reader
	recorder events.EventRecorder
	queue    chan admit.Outcome
	dropped  func()
}

func newNews(reader client.Reader, recorder events.EventRecorder, dropped func()) *news {
	return &news{reader, recorder, make(chan admit.Outcome, 256), dropped}
}

// outcome queues what kubectl describe is to show of a request about a pod. A pod that
// nobody has made is refused to whoever creates it, who is told.
func (n *news) outcome(o admit.Outcome) {
	if o.DryRun || o.Webhook != "pods" || o.About.Kind == "" || o.By == admit.Excluded ||
		o.Result != admit.Skipped && o.Result != admit.Refused {
		return
	}
	select {
	case n.queue <- o:
	default:
		n.dropped()
	}
}

// run writes events until ctx is done.
func (n *news) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-n.queue:
			kind, reason, says := corev1.EventTypeNormal, "SidecarSkipped", "Its pod has no sidecar: "+o.Says
			if o.Result == admit.Refused {
				kind, reason, says = corev1.EventTypeWarning, "SidecarRefused", "Its pod was refused: "+o.Says
			}
			about := corev1.ObjectReference{APIVersion: o.About.APIVersion, Kind: o.About.Kind,
				Namespace: o.About.Namespace, Name: o.About.Name, UID: o.About.UID}
			n.write(n.origin(ctx, about), kind, reason, "Inject", says)
		}
	}
}

func (n *news) write(about corev1.ObjectReference, kind, reason, action, note string) {
	note = strict.OneLine(note)
	if len(note) > maxNote {
		note = strings.ToValidUTF8(note[:maxNote-len("…")], "") + "…"
	}
	n.recorder.Eventf(&about, nil, kind, reason, action, "%s", note)
}

// origin is the Deployment where a ReplicaSet is a Deployment's: that is what people
// describe.
func (n *news) origin(ctx context.Context, about corev1.ObjectReference) corev1.ObjectReference {
	if about.Kind != "ReplicaSet" || about.APIVersion != "apps/v1" {
		return about
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	set := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: about.APIVersion, Kind: about.Kind}}
	if err := n.reader.Get(ctx, types.NamespacedName{Namespace: about.Namespace, Name: about.Name}, set); err != nil {
		return about
	}
	owner := metav1.GetControllerOf(set)
	if owner == nil {
		return about
	}
	return corev1.ObjectReference{APIVersion: owner.APIVersion, Kind: owner.Kind, Namespace: about.Namespace,
		Name: owner.Name, UID: owner.UID}
}

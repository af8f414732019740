package kube

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/peers/pods"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// Pod is what matters of a pod.
type Pod struct {
	Namespace, Name string
	// UID is the API server's.
	UID string
	// RuntimeUID is what kubelet and the container runtime call it by: the UID,
	// or of a static pod, which the API server knows by a mirror alone, the hash
	// of its file.
	RuntimeUID  string
	Facts       cniwire.Facts
	NodeName    string
	Terminating bool
	// HasAddress is whether its network is there, and Addresses what it has.
	HasAddress bool
	Addresses  []netip.Addr
	// IsNew is whether the watch has just brought it: it is none of those that were there at the beginning.
	IsNew bool
	// Finished is whether all its containers have ended for good.
	Finished bool
}

// String returns namespace/name.
func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// configHash is kubelet's annotation of static pods and their mirrors
// (kubetypes.ConfigHashAnnotationKey, ConfigMirrorAnnotationKey).
const (
	configHash   = "kubernetes.io/config.hash"
	configMirror = "kubernetes.io/config.mirror"
)

// podOf reads a pod. initNames are globs of the init containers that
// intercept, by name or by image.
func podOf(p *corev1.Pod, initNames []string) Pod {
	out := Pod{
		Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), RuntimeUID: string(p.UID), NodeName: p.Spec.NodeName,
		Terminating: p.DeletionTimestamp != nil, HasAddress: len(p.Status.PodIPs) > 0,
		Finished: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed,
		Facts: cniwire.Facts{Found: true, Annotations: p.Annotations, HostNetwork: p.Spec.HostNetwork,
			Labels: p.Labels, Injected: injected(p)},
	}
	for _, ip := range p.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			out.Addresses = append(out.Addresses, a)
		}
	}
	if _, mirror := p.Annotations[configMirror]; mirror && p.Annotations[configHash] != "" {
		out.RuntimeUID = p.Annotations[configHash]
	}
	if p.Spec.RuntimeClassName != nil {
		out.Facts.RuntimeClass = *p.Spec.RuntimeClassName
	}
	out.Facts.InitContainer = slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool {
		return slices.ContainsFunc(initNames, func(glob string) bool {
			byName, _ := path.Match(glob, c.Name)
			byImage, _ := path.Match(glob, imageName(c.Image))
			return byName || byImage
		})
	})
	return out
}

// imageName is an image's name without registry, tag and digest.
func imageName(image string) string {
	image, _, _ = strings.Cut(image, "@")
	image = image[strings.LastIndexByte(image, '/')+1:]
	image, _, _ = strings.Cut(image, ":")
	return image
}

// inJSON makes JSON of the annotations that other meshes write in YAML, which a plugin has no room to read. What is not
// YAML stays, and the plugin says so.
func inJSON(annotations map[string]string) map[string]string {
	for _, name := range pods.Documents() {
		text, ok := annotations[name]
		if !ok {
			continue
		}
		if docs, err := yamldoc.Stream([]byte(text), strict.MaxDepth); err == nil && len(docs) == 1 {
			if b, err := yamldoc.JSON(docs[0]); err == nil {
				annotations = maps.Clone(annotations)
				annotations[name] = string(b)
			}
		}
	}
	return annotations
}

// slim drops what nobody asks for: a node's pods are otherwise megabytes.
func slim(o any) (any, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return o, nil
	}
	out := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
			Annotations: inJSON(p.Annotations), Labels: p.Labels, DeletionTimestamp: p.DeletionTimestamp,
		},
		Spec: corev1.PodSpec{NodeName: p.Spec.NodeName, HostNetwork: p.Spec.HostNetwork,
			RuntimeClassName: p.Spec.RuntimeClassName, SecurityContext: p.Spec.SecurityContext,
			ShareProcessNamespace: p.Spec.ShareProcessNamespace},
		Status: corev1.PodStatus{Phase: p.Status.Phase, PodIPs: p.Status.PodIPs},
	}
	for _, c := range p.Spec.InitContainers {
		out.Spec.InitContainers = append(out.Spec.InitContainers, slimContainer(c))
	}
	for _, c := range p.Spec.Containers {
		out.Spec.Containers = append(out.Spec.Containers, slimContainer(c))
	}
	return out, nil
}

// Pods knows the pods of a node. It has the API server's word for it: what it
// says may be old while the server is away.
type Pods struct {
	informer  cache.Controller
	store     cache.Store
	initNames []string
	changed   func(Pod)

	mu   sync.Mutex
	news chan struct{} // closed when anything changes
}

// NewPods returns the pods of a node; [Pods.Run] watches them. changed, if not
// nil, is called with each pod that is new or has changed.
func NewPods(c *Client, node string, initNames []string, changed func(Pod)) *Pods {
	p := &Pods{initNames: initNames, changed: changed, news: make(chan struct{})}
	selector := fields.OneTermEqualSelector("spec.nodeName", node).String()
	resource := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			list := &corev1.PodList{}
			err := c.core.Get().Resource("pods").VersionedParams(&o, c.params).Do(ctx).Into(list)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector, o.Watch = selector, true
			return c.core.Get().Resource("pods").VersionedParams(&o, c.params).Watch(ctx)
		},
	}
	p.store, p.informer = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: resource, ObjectType: &corev1.Pod{}, Transform: slim,
		Handler: cache.ResourceEventHandlerDetailedFuncs{
			AddFunc:    func(o any, initial bool) { p.tell(o, !initial) },
			UpdateFunc: func(_, o any) { p.tell(o, false) },
			DeleteFunc: func(any) {},
		},
	})
	return p
}

// Run watches until ctx is done. client-go lists anew when the server has
// forgotten what it was asked for (410 Gone), and tries for ever otherwise.
func (p *Pods) Run(ctx context.Context) { p.informer.RunWithContext(ctx) }

// ErrNotListed reports that the pods are not known yet.
var ErrNotListed = errors.New(
	"the pods of this node have not been listed yet; the agent's log says what keeps it from the API server")

// Ready is nil once the pods have been listed.
func (p *Pods) Ready() error {
	if !p.informer.HasSynced() {
		return ErrNotListed
	}
	return nil
}

func (p *Pods) tell(o any, isNew bool) {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	p.mu.Lock()
	close(p.news)
	p.news = make(chan struct{})
	p.mu.Unlock()
	if p.changed != nil {
		known := podOf(pod, p.initNames)
		known.IsNew = isNew
		p.changed(known)
	}
}

// Find says what is known of a pod, and waits for one that is not known yet
// until ctx is done. A pod of the same name with another UID is another pod.
func (p *Pods) Find(ctx context.Context, want cniwire.Pod) (cniwire.Facts, error) {
	for {
		p.mu.Lock()
		news := p.news
		p.mu.Unlock()
		if pod, ok := p.get(want); ok {
			facts := pod.Facts
			facts.Annotations = maps.Clone(facts.Annotations)
			return facts, nil
		}
		select {
		case <-ctx.Done():
			return cniwire.Facts{}, nil
		case <-news:
		}
	}
}

func (p *Pods) get(want cniwire.Pod) (Pod, bool) {
	o, ok, err := p.store.GetByKey(want.Namespace + "/" + want.Name)
	if err != nil || !ok {
		return Pod{}, false
	}
	known, ok := o.(*corev1.Pod)
	if !ok {
		return Pod{}, false
	}
	pod := podOf(known, p.initNames)
	return pod, want.UID == "" || want.UID == pod.UID || want.UID == pod.RuntimeUID
}

// All returns the pods that are known, by namespace and name.
func (p *Pods) All() []Pod {
	var all []Pod
	for _, o := range p.store.List() {
		if known, ok := o.(*corev1.Pod); ok {
			all = append(all, podOf(known, p.initNames))
		}
	}
	slices.SortFunc(all, func(a, b Pod) int { return strings.Compare(a.String(), b.String()) })
	return all
}

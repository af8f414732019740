// Package injector puts the webhook together: the server that the API server asks, what
// keeps its certificates and profiles, and what looks for pods that it was not asked about.
package injector

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/mesh-intercept/intercept/kube/internal/injector/admit"
	"github.com/mesh-intercept/intercept/kube/internal/injector/certs"
	"github.com/mesh-intercept/intercept/kube/internal/injector/profiles"
	"github.com/mesh-intercept/intercept/kube/internal/injector/sweep"
	"github.com/mesh-intercept/intercept/kube/internal/web"
)

// Paths at which the API server asks.
const (
	PathPods      = "/inject"
	PathWorkloads = "/validate"
	PathProfiles  = "/validate-profile"
)

// EndTime is how long requests that are under way may take to end after [Settings].Drain. With that it is to be less than
// kubelet waits (terminationGracePeriodSeconds).
const EndTime = 15 * time.Second

// Settings are what the injector is started with.
type Settings struct {
	// API is how the API server is reached.
	API *rest.Config
	// Namespace is the injector's own. Name is that of its Service, its webhook
	// configurations and its lease.
	Namespace, Name string
	// Webhook is where the API server asks, and Listen where health and metrics are.
	Webhook, Listen string
	// Pprof is where Go's profiles are. Empty: nowhere.
	Pprof string
	// CertDir has tls.crt and tls.key of somebody else. Empty: the injector makes its own,
	// in the Secret of the name CertSecret.
	CertDir, CertSecret string
	// Profile is that of pods that name none.
	Profile string
	// Minor is the cluster's minor version. Zero: it is asked.
	Minor int
	// Every is how often running pods are looked at, and Evict whether those are evicted
	// that should have a sidecar.
	Every time.Duration
	Evict bool
	// Drain is how long requests are answered after the end of Run's context, while the
	// injector is not ready, so that API servers send theirs elsewhere by then.
	Drain time.Duration
	// Lease is how long a leader may be silent until another takes over. Zero: 15 s.
	Lease time.Duration
}

// excluded are the namespaces that are never touched.
func (s Settings) excluded() []string {
	return []string{"kube-system", "kube-public", "kube-node-lease", s.Namespace}
}

// injector is a running one.
type injector struct {
	Settings
	log      *slog.Logger
	mgr      manager.Manager
	profiles *profiles.Store
	meters   *meters
	news     *news
	certs    certs.Server
	admit    admit.Settings
	minor    atomic.Int64
	synced   atomic.Bool // what is watched has been read
	known    atomic.Bool // the cluster's version
	found    atomic.Bool // the profile of pods that name none
	ending   atomic.Bool
	started  func() error
	sweeper  *sweep.Sweeper
	leading  atomic.Bool
	elected  chan event.GenericEvent  // wakes the keeper of the certificates
	files    *certwatcher.CertWatcher // nil: the injector makes its certificates
}

// everywhere is something that every replica does from its start on.
type everywhere func(context.Context) error

// Start implements [manager.Runnable].
func (f everywhere) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection implements [manager.LeaderElectionRunnable].
func (everywhere) NeedLeaderElection() bool { return false }

// Run answers the API server until ctx is done, and for the time Drain after that.
func Run(ctx context.Context, s Settings, log *slog.Logger) error {
	return run(ctx, s, log, time.After)
}

func run(ctx context.Context, s Settings, log *slog.Logger, after func(time.Duration) <-chan time.Time) error {
	store, err := profiles.New()
	if err != nil {
		return err
	}
	i := &injector{Settings: s, log: log, profiles: store, elected: make(chan event.GenericEvent, 1)}
	i.minor.Store(int64(s.Minor))
	i.known.Store(s.Minor > 0)
	i.meters = newMeters(func() float64 { return float64(len(store.Bad())) }, func() float64 {
		if i.Ready() != nil {
			return 0
		}
		return 1
	})
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", s.Listen)
	if err != nil {
		return fmt.Errorf("listen for health and metrics: %w; --listen names another address", err)
	}
	if err := i.build(listener); err != nil {
		_ = listener.Close()
		return err
	}
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(ctx, func() {
		i.ending.Store(true)
		i.log.InfoContext(ctx, "ending", "drain", s.Drain.String())
		select {
		case <-after(s.Drain):
		case <-serving.Done():
		}
		end()
	})()
	return i.mgr.Start(serving)
}

// build makes the manager, and all that it runs.
func (i *injector) build(listener net.Listener) error {
	server, err := i.server()
	if err != nil {
		return err
	}
	i.mgr, err = manager.New(i.API, manager.Options{
		Scheme:         scheme.Scheme,
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return mapper(), nil },
		Cache:          i.cache(),
		// An API server that is away is waited for, however long that takes.
		Controller:              config.Controller{CacheSyncTimeout: 365 * 24 * time.Hour},
		Metrics:                 metricsserver.Options{BindAddress: "0"},
		PprofBindAddress:        i.Pprof,
		GracefulShutdownTimeout: new(EndTime),
		WebhookServer:           server,
	})
	if err != nil {
		return err
	}
	i.news = newNews(i.mgr.GetAPIReader(), i.mgr.GetEventRecorder(controllerName), i.meters.eventsDropped.Inc)
	i.admit = admit.Settings{Profiles: i.profiles, Default: i.Profile, Excluded: i.excluded(), Labels: i.labels,
		Minor: func() int { return int(i.minor.Load()) },
		Report: func(ctx context.Context, o admit.Outcome) {
			i.meters.outcome(ctx, o)
			i.news.outcome(o)
			if o.Result == admit.Refused {
				i.log.InfoContext(ctx, "refused", "webhook", o.Webhook, "namespace", o.About.Namespace, "owner", o.About.Name,
					"reason", o.By, "says", o.Says, "dryRun", o.DryRun)
			}
		}}
	server = i.mgr.GetWebhookServer() // from now on it is the manager's to start
	limits := &budget{peers: map[string]int64{}}
	for path, h := range map[string]admit.Handler{
		PathPods: i.admit.Pods(), PathWorkloads: i.admit.Workloads(), PathProfiles: i.admit.ProfileMaps(),
	} {
		server.Register(path, limits.limited(hook(h)))
	}
	started := server.StartedChecker()
	i.started = func() error { return started(nil) }
	for _, run := range []everywhere{i.sync, i.elect, i.askVersion, i.news.run, func(ctx context.Context) error {
		return web.ServeSmall(ctx, listener, web.Health(i.Ready, i.meters.handler()))
	}} {
		if err := i.mgr.Add(run); err != nil {
			return err
		}
	}
	i.sweeper = &sweep.Sweeper{Cached: i.mgr.GetCache(), API: i.mgr.GetAPIReader(), Client: i.mgr.GetClient(),
		Would: i.admit.Would, Excluded: i.excluded(), Config: i.Name, Evict: i.Evict, Every: i.Every, Log: i.log,
		Count: i.meters.counted, Moved: func(e sweep.Eviction) { i.meters.evictions.WithLabelValues(string(e)).Inc() },
		Event: func(p *corev1.Pod, kind, reason, note string) {
			i.news.write(corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
				kind, reason, "Look", note)
		}}
	return errors.Join(i.watchProfiles(), i.watchCertificates())
}

// hook is a handler as the library's server has it.
func hook(h admit.Handler) *admission.Webhook {
	return &admission.Webhook{Handler: admission.HandlerFunc(
		func(ctx context.Context, req admission.Request) admission.Response {
			return admission.Response{AdmissionResponse: *h(ctx, &req.AdmissionRequest)}
		})}
}

// server is the one that the API server asks.
func (i *injector) server() (webhook.Server, error) {
	host, port, err := net.SplitHostPort(i.Webhook)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	get := i.certs.Get
	if i.CertDir != "" {
		watcher, err := certwatcher.New(filepath.Join(i.CertDir, certs.Cert), filepath.Join(i.CertDir, certs.Key))
		if err != nil {
			return nil, fmt.Errorf("the certificate: %w", err)
		}
		get = watcher.GetCertificate
		i.files = watcher
	}
	return webhook.NewServer(webhook.Options{Host: host, Port: number, TLSOpts: []func(*tls.Config){func(c *tls.Config) {
		c.GetCertificate, c.MinVersion = get, tls.VersionTLS12
	}}}), nil
}

// mapper knows the kinds that are asked for, so that the API server need not be.
func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	add := func(of schema.GroupVersion, scope meta.RESTScope, kinds ...string) {
		for _, kind := range kinds {
			m.Add(of.WithKind(kind), scope)
			m.Add(of.WithKind(kind+"List"), scope)
		}
	}
	add(corev1.SchemeGroupVersion, meta.RESTScopeNamespace, "ConfigMap", "Secret", "Pod")
	add(corev1.SchemeGroupVersion, meta.RESTScopeRoot, "Namespace")
	add(appsv1.SchemeGroupVersion, meta.RESTScopeNamespace, "ReplicaSet")
	add(admissionv1.SchemeGroupVersion, meta.RESTScopeRoot, "MutatingWebhookConfiguration",
		"ValidatingWebhookConfiguration")
	return m
}

// cache is what is watched: our own objects, and the metadata of namespaces.
func (i *injector) cache() cache.Options {
	own := map[string]cache.Config{i.Namespace: {}}
	byName := func(name string) fields.Selector { return fields.OneTermEqualSelector("metadata.name", name) }
	labelled, err := labels.NewRequirement(profiles.Label, selection.Exists, nil)
	if err != nil {
		panic(err) // it is a constant
	}
	return cache.Options{DefaultTransform: cache.TransformStripManagedFields(), ByObject: map[client.Object]cache.ByObject{
		&corev1.Secret{}:                              {Namespaces: own, Field: byName(i.CertSecret)},
		&corev1.ConfigMap{}:                           {Namespaces: own, Label: labels.NewSelector().Add(*labelled)},
		&admissionv1.MutatingWebhookConfiguration{}:   {Field: byName(i.Name)},
		&admissionv1.ValidatingWebhookConfiguration{}: {Field: byName(i.Name)},
	}}
}

func namespaceObject() *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}}
}

// labels are those of a namespace. One that is not known yet was created a moment ago.
func (i *injector) labels(ctx context.Context, namespace string) (map[string]string, error) {
	ns := namespaceObject()
	key := types.NamespacedName{Name: namespace}
	if err := i.mgr.GetCache().Get(ctx, key, ns); err != nil {
		if err := i.mgr.GetAPIReader().Get(ctx, key, ns); err != nil {
			return nil, err
		}
	}
	return ns.Labels, nil
}

// sync waits until all that is watched has been read, and takes the profiles.
func (i *injector) sync(ctx context.Context) error {
	if _, err := i.mgr.GetCache().GetInformer(ctx, namespaceObject()); err != nil {
		return ignoreEnd(ctx, err)
	}
	maps := &corev1.ConfigMapList{}
	if err := i.mgr.GetCache().List(ctx, maps); err != nil {
		return ignoreEnd(ctx, err)
	}
	for k := range maps.Items {
		i.takeProfile(ctx, &maps.Items[k])
	}
	i.synced.Store(true)
	if _, err := i.profiles.Get(i.Profile); err != nil {
		i.log.WarnContext(ctx, "pods that name no profile are refused", "err", err)
	}
	return nil
}

func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// askVersion asks for the cluster's version until it is known, and from time to time
// whether it is another.
func (i *injector) askVersion(ctx context.Context) error {
	if i.Minor > 0 {
		return nil
	}
	client, err := discovery.NewDiscoveryClientForConfigAndClient(i.API, i.mgr.GetHTTPClient())
	if err != nil {
		return err
	}
	for {
		wait := time.Hour
		v, err := client.ServerVersion()
		if err == nil {
			var minor int
			if minor, err = strconv.Atoi(strings.TrimRight(v.Minor, "+")); err == nil {
				i.minor.Store(int64(minor))
				i.known.Store(true)
			}
		}
		if err != nil {
			i.log.WarnContext(ctx, "the cluster's version is not known", "err", err)
			if !i.known.Load() {
				wait = 2 * time.Second
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// Ready says what is in the way of an answer to the next request.
func (i *injector) Ready() error {
	var errs []error
	if i.ending.Load() {
		errs = append(errs, errors.New("it is ending"))
	}
	if !i.synced.Load() {
		errs = append(errs, errors.New("namespaces and profiles have not been read yet"))
	} else if !i.found.Load() { // a profile that goes later is no reason to leave other pods without an answer
		if _, err := i.profiles.Get(i.Profile); errors.Is(err, profiles.ErrUnknown) {
			errs = append(errs, fmt.Errorf("--profile: %w", err))
		} else {
			i.found.Store(true)
		}
	}
	if !i.known.Load() {
		errs = append(errs, errors.New("the cluster's version is not known yet"))
	}
	if _, err := i.certs.Get(nil); err != nil && i.files == nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, i.started())...)
}

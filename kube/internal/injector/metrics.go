package injector

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	runtimemetrics "sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/mesh-intercept/intercept/internal/version"
	"github.com/mesh-intercept/intercept/kube/internal/injector/admit"
	"github.com/mesh-intercept/intercept/kube/internal/injector/sweep"
)

// meters are the injector's own metrics.
type meters struct {
	registry      *prometheus.Registry
	requests      *prometheus.CounterVec   // by webhook, result and reason
	seconds       *prometheus.HistogramVec // by webhook
	bundles       prometheus.Counter
	pods          *prometheus.GaugeVec // by state
	evictions     *prometheus.CounterVec
	eventsDropped prometheus.Counter
}

func newMeters(badProfiles func() float64, ready func() float64) *meters {
	v := version.Get()
	m := &meters{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mesh_injector_requests_total",
			Help: "Requests of the API server by what became of them; reason is empty for those that were granted."},
			[]string{"webhook", "result", "reason"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "mesh_injector_request_seconds",
			Help:    "How long the decision about a request took.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .02, .05, .1, .25, .5, 1, 5}}, []string{"webhook"}),
		bundles: prometheus.NewCounter(prometheus.CounterOpts{Name: "mesh_injector_ca_bundle_writes_total",
			Help: "Times the CA bundle was written into a webhook configuration, because it was missing or another."}),
		pods: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mesh_injector_pods",
			Help: "Pods of labelled namespaces, as the leader's last look found them."}, []string{"state"}),
		evictions: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mesh_injector_evictions_total",
			Help: "Evictions of pods without a sidecar, by what came of them."}, []string{"result"}),
		eventsDropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "mesh_injector_events_dropped_total",
			Help: "Kubernetes events that were not written, because too many waited."}),
	}
	m.registry.MustRegister(m.requests, m.seconds, m.bundles, m.pods, m.evictions, m.eventsDropped,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mesh_injector_bad_profiles",
			Help: "ConfigMaps whose profile is refused."}, badProfiles),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mesh_injector_ready",
			Help: "1 while requests can be answered."}, ready),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "mesh_injector_build_info", Help: "1, with what was built.",
			ConstLabels: prometheus.Labels{"version": v.Version, "revision": v.Revision, "goversion": v.Go}},
			func() float64 { return 1 }))
	// What is to be alerted on is there before it first happens.
	m.requests.WithLabelValues("pods", string(admit.Injected), "")
	for _, by := range []string{admit.ByRequest, admit.ByProfile, admit.ByPod, admit.ByCluster} {
		m.requests.WithLabelValues("pods", string(admit.Refused), by)
	}
	for _, s := range sweep.States() {
		m.pods.WithLabelValues(string(s))
	}
	for _, e := range sweep.Evictions() {
		m.evictions.WithLabelValues(string(e))
	}
	return m
}

// handler serves the metrics, with those of the libraries.
func (m *meters) handler() http.Handler {
	return promhttp.HandlerFor(prometheus.Gatherers{m.registry, runtimemetrics.Registry}, promhttp.HandlerOpts{})
}

// outcome counts a request.
func (m *meters) outcome(_ context.Context, o admit.Outcome) {
	m.requests.WithLabelValues(o.Webhook, string(o.Result), o.By).Inc()
	m.seconds.WithLabelValues(o.Webhook).Observe(o.Took.Seconds())
}

func (m *meters) counted(counts map[sweep.State]int) {
	for _, s := range sweep.States() {
		m.pods.WithLabelValues(string(s)).Set(float64(counts[s]))
	}
}

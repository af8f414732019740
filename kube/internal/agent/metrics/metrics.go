// Package metrics counts what the node's agent sees and does.
package metrics

import (
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/version"
)

// Metrics are the agent's. Make them with [New].
type Metrics struct {
	registry *prometheus.Registry

	// Calls are the plugin's, but its ADDs, by command and result.
	calls *prometheus.CounterVec
	// Adds by result and reason, and how long they took.
	adds    *prometheus.CounterVec
	seconds *prometheus.HistogramVec
	// Answers to questions about pods, by verb and result.
	answers *prometheus.CounterVec

	// Writes of our entry, by reason.
	Writes *prometheus.CounterVec
	// Repairs by result: repaired, failed, dry-run.
	Repairs *prometheus.CounterVec
	// Drift counts pods found without their rules or with others, by kind:
	// missing, changed.
	Drift *prometheus.CounterVec
	// Pods is how the last look found the pods that ask for interception.
	Pods *prometheus.GaugeVec
	// Warnings is how many of those pods the last look found something about that
	// lets a container pass as the proxy or past it, by the warning's ID.
	Warnings *prometheus.GaugeVec
	// EventsDropped counts events that could not be written.
	EventsDropped prometheus.Counter
	// Ready is 1 while the agent is ready.
	Ready prometheus.Gauge

	mu      sync.Mutex
	reasons map[string]bool
}

// New makes metrics of their own registry.
func New() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		calls:    counter("mesh_cni_calls_total", "Calls of the plugin other than ADD.", "command", "result"),
		answers:  counter("mesh_cni_answers_total", "Questions about pods, by what became of them.", "verb", "result"),
		adds:     counter("mesh_cni_adds_total", "ADDs of the plugin: pods started.", "result", "reason"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mesh_cni_add_seconds", Help: "How long ADDs took in the plugin.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"result"}),
		Writes: counter("mesh_cni_conflist_writes_total",
			"Times the agent wrote the plugin's entry into the CNI configuration.", "reason"),
		Repairs: counter("mesh_cni_repairs_total", "Repairs of running pods.", "result"),
		Drift: counter("mesh_cni_drift_total", "Pods found without their rules (missing) or with others (changed).",
			"kind"),
		Pods: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mesh_cni_pods", Help: "Pods of this node that ask for interception, as the last look found them."},
			[]string{"state"}),
		Warnings: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "mesh_cni_pod_warnings",
			Help: "Pods that ask for interception and let a container pass as the proxy, or past it."}, []string{"warning"}),
		EventsDropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mesh_cni_events_dropped_total", Help: "Kubernetes events that could not be written."}),
		Ready:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "mesh_cni_ready", Help: "1 while the agent is ready."}),
		reasons: map[string]bool{},
	}
	v := version.Get()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "mesh_cni_build_info", Help: "1, with what was built.",
		ConstLabels: prometheus.Labels{"version": v.Version, "revision": v.Revision, "goversion": v.Go}})
	build.Set(1)
	m.registry.MustRegister(m.calls, m.answers, m.adds, m.seconds, m.Writes, m.Repairs, m.Drift, m.Pods, m.Warnings,
		m.EventsDropped, m.Ready, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	// What is to be alerted on is there before it first happens.
	for _, reason := range []string{"installed", "restored"} {
		m.Writes.WithLabelValues(reason)
	}
	for _, result := range []string{"repaired", "failed", "dry-run"} {
		m.Repairs.WithLabelValues(result)
	}
	for _, kind := range []string{"missing", "changed"} {
		m.Drift.WithLabelValues(kind)
	}
	return m
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Record counts a call of the plugin. Records without a result end no call.
func (m *Metrics) Record(r cniwire.Record) {
	result := known(r.Result, cniwire.ResultIntercepted, cniwire.ResultSkipped, cniwire.ResultAllowed, cniwire.ResultOK,
		cniwire.ResultFailed)
	switch {
	case r.Result == "":
	case r.Command == "ADD":
		m.adds.WithLabelValues(result, m.reason(r.Reason)).Inc()
		if r.Seconds >= 0 && r.Seconds < 3600 {
			m.seconds.WithLabelValues(result).Observe(r.Seconds)
		}
	default:
		m.calls.WithLabelValues(known(r.Command, "DEL", "CHECK", "STATUS", "GC", "VERSION"), result).Inc()
	}
}

// Answer counts a question about pods, by its verb (list is one, too) and by what became of it: answered, refused or
// failed.
func (m *Metrics) Answer(verb, result string) { m.answers.WithLabelValues(verb, result).Inc() }

func known(s string, all ...string) string {
	if slices.Contains(all, s) {
		return s
	}
	return "other"
}

// reason keeps the metric's labels few: a plugin of another release has other
// words, but not hundreds.
func (m *Metrics) reason(s string) string {
	const most = 64
	if len(s) > 40 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_ ") != "" {
		return "other"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.reasons[s] && len(m.reasons) >= most {
		return "other"
	}
	m.reasons[s] = true
	return s
}

package relay

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mesh-intercept/intercept/internal/version"
	"github.com/mesh-intercept/intercept/podspec/probes"
)

// metrics count what the relay's probes found.
type metrics struct {
	registry *prometheus.Registry
	probes   *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

// The results of probes.
const (
	succeeded = "success"
	failed    = "failure"
)

func newMetrics() metrics {
	m := metrics{
		registry: prometheus.NewRegistry(),
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "mesh_probe_probes_total",
			Help: "Times an app was probed."}, []string{"container", "kind", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "mesh_probe_seconds",
			Help: "How long apps took to answer probes.", Buckets: []float64{.001, .005, .025, .1, .5, 1, 5, 30}},
			[]string{"container", "kind"}),
	}
	v := version.Get()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "mesh_probe_build_info", Help: "1, with what was built.",
		ConstLabels: prometheus.Labels{"version": v.Version, "revision": v.Revision, "goversion": v.Go}})
	build.Set(1)
	m.registry.MustRegister(m.probes, m.seconds, build, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// announce makes a probe's counters be there before it is first asked.
func (m metrics) announce(p probes.Probe) {
	for _, result := range []string{succeeded, failed} {
		m.probes.WithLabelValues(p.Container, string(p.Kind), result)
	}
}

func (m metrics) count(p probes.Probe, err error, took time.Duration) {
	result := succeeded
	if err != nil {
		result = failed
	}
	m.probes.WithLabelValues(p.Container, string(p.Kind), result).Inc()
	m.seconds.WithLabelValues(p.Container, string(p.Kind)).Observe(took.Seconds())
}

func (m metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, DisableCompression: true})
}

package main

import (
	"bytes"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/kube/internal/agent/metrics"
)

// TestFiles: both directories have what the program writes. MESH_TEST_UPDATE=1 writes it.
func TestFiles(t *testing.T) {
	for _, dir := range dirs() {
		for name, want := range files() {
			path := filepath.Join("../../..", dir, name)
			if os.Getenv("MESH_TEST_UPDATE") != "" {
				if err := os.WriteFile(path, want, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s is not what go run ./kube/deploy/monitoring writes (%v)", path, err)
			}
		}
	}
}

// exported are the agent's metrics, each with its labels.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	m := metrics.New()
	m.Record(cniwire.Record{Command: "ADD", Result: cniwire.ResultIntercepted, Reason: "enabled"})
	m.Record(cniwire.Record{Command: "DEL", Result: cniwire.ResultOK})
	m.Pods.WithLabelValues("missing")
	m.Warnings.WithLabelValues("W1")
	m.Answer("status", "answered")
	recorder := httptest.NewRecorder()
	m.Handler().ServeHTTP(recorder, httptest.NewRequest("GET", "/metrics", nil))
	all := map[string][]string{}
	for line := range strings.Lines(recorder.Body.String()) {
		sample := regexp.MustCompile(`^(mesh_[a-z_]+?)(_bucket|_sum|_count)?(?:\{(.*)\})? `).FindStringSubmatch(line)
		if sample == nil {
			continue
		}
		labels := all[sample[1]]
		for _, pair := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(sample[3], -1) {
			labels = append(labels, pair[1])
		}
		all[sample[1]] = labels
	}
	if len(all) < 12 {
		t.Fatalf("the agent exports %v", all)
	}
	return all
}

// TestMetrics: what alerts and panels name is exported, with the labels that they name; and what is exported is in a
// panel.
func TestMetrics(t *testing.T) {
	metrics := exported(t)
	shown := map[string]bool{}
	var expressions []string
	for _, a := range alerts() {
		expressions = append(expressions, a.expr)
	}
	for _, p := range panels() {
		expressions = append(expressions, p.expr)
	}
	isName := regexp.MustCompile(`mesh_[a-z_]+`)
	for i, expr := range expressions {
		// instance and le come with every scrape and histogram.
		labels := []string{"instance", "le"}
		for _, name := range isName.FindAllString(expr, -1) {
			name = strings.TrimSuffix(name, "_bucket")
			if _, is := metrics[name]; !is {
				t.Errorf("%s names %s, which the agent does not export", expr, name)
			}
			labels = append(labels, metrics[name]...)
			if i >= len(alerts()) {
				shown[name] = true
			}
		}
		var named []string
		for _, by := range regexp.MustCompile(`by \(([^)]*)\)`).FindAllStringSubmatch(expr, -1) {
			named = append(named, strings.Split(by[1], ", ")...)
		}
		for _, match := range regexp.MustCompile(`(\w+)=~?"`).FindAllStringSubmatch(expr, -1) {
			named = append(named, match[1])
		}
		for _, label := range named {
			if !slices.Contains(labels, label) {
				t.Errorf("%s names the label %s, which it does not have", expr, label)
			}
			if strings.Contains(label, "pod") {
				t.Errorf("%s is by pod", expr)
			}
		}
	}
	for name := range metrics {
		if !shown[name] {
			t.Errorf("%s is in no panel", name)
		}
	}
}

package agent

import (
	"bytes"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/kube/internal/agent/kube"
	"github.com/mesh-intercept/intercept/kube/internal/agent/metrics"
	"github.com/mesh-intercept/intercept/kube/internal/agent/repair"
	"github.com/mesh-intercept/intercept/podspec"
)

// TestWarn: what is found about a pod is said once, and counted as long as it is so.
func TestWarn(t *testing.T) {
	var log bytes.Buffer
	a := &Agent{metrics: metrics.New(), log: slog.New(slog.NewTextHandler(&log, nil))}
	finding := func(name string, c intercept.Config) repair.Finding {
		return repair.Finding{Pod: kube.Pod{Namespace: "ns", Name: name, UID: name}, State: repair.Converged, Config: c}
	}
	findings := []repair.Finding{finding("web", intercept.Default()), finding("db", intercept.Default()),
		finding("gone", intercept.Default()), finding("refused", intercept.Config{})}
	loose := podspec.Pod{Containers: []podspec.Container{{Name: "app"}}}
	careful := podspec.Pod{Containers: []podspec.Container{{Name: "app", AllowPrivilegeEscalation: new(bool),
		Drop: []string{"ALL"}}}}
	specs := map[string]podspec.Pod{"web": loose, "db": careful, "refused": loose}
	look := func(lines int, counted string) {
		t.Helper()
		log.Reset()
		a.warn(t.Context(), findings, specs)
		w := httptest.NewRecorder()
		a.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
		if n := strings.Count(log.String(), "\n"); n != lines || !strings.Contains(w.Body.String(), counted) {
			t.Errorf("%d lines, want %d:\n%s%s is not in\n%s", n, lines, log.String(), counted, w.Body.String())
		}
	}
	look(1, `mesh_cni_pod_warnings{warning="raw-sockets"} 1`)
	for _, want := range []string{"pod=ns/web", "allowPrivilegeEscalation: false"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%s is not in %s", want, log.String())
		}
	}
	look(0, `mesh_cni_pod_warnings{warning="set-id-programs"} 1`)
	specs["db"] = loose
	look(1, `mesh_cni_pod_warnings{warning="raw-sockets"} 2`)
	specs["web"], specs["db"] = careful, careful
	look(0, `mesh_cni_pod_warnings{warning="raw-sockets"} 0`)
}

package metrics

import (
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/internal/cniwire"
)

func TestRecord(t *testing.T) {
	m := New()
	for _, r := range []cniwire.Record{
		{Command: "ADD", Result: cniwire.ResultIntercepted, Seconds: 0.004},
		{Command: "ADD", Result: cniwire.ResultSkipped, Reason: "not-annotated", Seconds: 0.0004},
		{Command: "ADD", Result: cniwire.ResultSkipped, Reason: "not-annotated", Seconds: -1},
		{Command: "ADD", Result: "new", Reason: "with \"quotes\"\n"},
		{Command: "ADD"},
		{Command: "DEL", Result: cniwire.ResultOK},
		{Command: "FOO", Result: cniwire.ResultFailed},
	} {
		m.Record(r)
	}
	for i := range 100 {
		m.Record(cniwire.Record{Command: "ADD", Result: cniwire.ResultFailed, Reason: "r" + strconv.Itoa(i)})
	}
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text := w.Body.String()
	for _, want := range []string{
		`mesh_cni_adds_total{reason="",result="intercepted"} 1`,
		`mesh_cni_adds_total{reason="not-annotated",result="skipped"} 2`,
		`mesh_cni_adds_total{reason="other",result="other"} 1`,
		`mesh_cni_add_seconds_bucket{result="intercepted",le="0.005"} 1`,
		`mesh_cni_add_seconds_count{result="skipped"} 1`,
		`mesh_cni_calls_total{command="DEL",result="ok"} 1`,
		`mesh_cni_calls_total{command="other",result="failed"} 1`,
		`mesh_cni_repairs_total{result="repaired"} 0`,
		`mesh_cni_conflist_writes_total{reason="restored"} 0`,
		`mesh_cni_drift_total{kind="missing"} 0`,
		`mesh_cni_events_dropped_total 0`,
		`mesh_cni_build_info{goversion="go1.`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if n := strings.Count(text, "mesh_cni_adds_total{"); n > 70 {
		t.Errorf("%d series", n)
	}
}

package serve

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHandler(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"index.html": "front", "404.html": "missing", "docs/index.html": "docs", "a.js": "1", "a.wasm": "w", "a.wasm.gz": "z",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "..", "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path, body, kind string
		code             int
	}{
		{"/base/", "front", "text/html", 200},
		{"/base/index.html", "front", "text/html", 200},
		{"/base/docs/", "docs", "text/html", 200},
		{"/base/docs", "", "", 301},
		{"/base/a.js", "1", "text/javascript", 200},
		{"/base/a.wasm", "w", "application/wasm", 200},
		{"/base/a.wasm.gz", "z", "application/gzip", 200},
		{"/base/none/at/all", "missing", "text/html", 404},
		{"/index.html", "missing", "text/html", 404},
		{"/base/../../secret", "missing", "text/html", 404},
		{"/base/%2e%2e/secret", "missing", "text/html", 404},
	} {
		w := httptest.NewRecorder()
		Handler("/base/", dir).ServeHTTP(w, httptest.NewRequest(http.MethodGet, test.path, nil))
		if w.Code != test.code || test.body != "" && w.Body.String() != test.body ||
			!strings.HasPrefix(w.Header().Get("Content-Type"), test.kind) {
			t.Errorf("%s: %d %s %q, want %+v", test.path, w.Code, w.Header().Get("Content-Type"), w.Body, test)
		}
		if test.code == 301 && w.Header().Get("Location") != "/base/docs/" {
			t.Errorf("%s leads to %s", test.path, w.Header().Get("Location"))
		}
	}
	if err := Listen("127.0.0.1:0", "/", filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "make site") {
		t.Errorf("a site that is not made: %v", err)
	}
}

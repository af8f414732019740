package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/kube/internal/web"
)

// handler serves health and metrics. /healthz says that the process lives;
// /readyz, whether the next pod can be intercepted, or what is in the way.
func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { say(w, a.Ready()) })
	mux.Handle("GET /metrics", a.metrics.Handler())
	return mux
}

func say(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ok"
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		var lines []string
		for _, e := range strict.Flatten(err) {
			lines = append(lines, strict.OneLine(e.Error()))
		}
		text = strings.Join(lines, "\n")
	}
	_, _ = io.WriteString(w, text+"\n") // who asked has gone
}

// serveWeb serves until ctx is done, and lets requests end.
func serveWeb(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	return web.Serve(ctx, l, s, web.Limits{Each: 32, Most: 512, End: 3 * time.Second})
}

package web

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// Health serves health and metrics. /healthz says that the process lives; /readyz, whether it can do its work, or what is
// in the way.
func Health(ready func() error, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { say(w, ready()) })
	mux.Handle("GET /metrics", metrics)
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

// ServeSmall serves what has small requests and answers, as [Health] has, until ctx is done, and lets requests end.
func ServeSmall(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	return Serve(ctx, l, s, Limits{Each: 32, Most: 512, End: 3 * time.Second})
}

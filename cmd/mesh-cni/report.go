package main

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// report says in the log how a call ended. The names of its attributes are
// those of [cniwire.Record].
type report struct {
	in      input
	command string
	begun   time.Time
	applied dataplane.Result
}

func (r report) intercepted() {
	r.write(slog.LevelInfo, "intercepted: "+r.applied.Reason, cniwire.ResultIntercepted, "enabled",
		slog.String("backend", string(r.applied.Backend)), slog.String("outcome", string(r.applied.Outcome)))
	for _, warning := range r.applied.Warnings {
		r.write(slog.LevelWarn, warning, "", "")
	}
}

// skip is of a pod left alone, which is not worth a line, unless the entry is
// broken: then the next pod may fail.
func (r report) skip(why string) {
	if r.in.confErr != nil {
		r.write(slog.LevelError, "left alone, but a pod that asks for interception would fail: "+sentence(r.in.confErr),
			cniwire.ResultSkipped, why)
		return
	}
	r.write(slog.LevelDebug, "left alone", cniwire.ResultSkipped, why)
}

func (r report) ok(why string) {
	result := cniwire.ResultOK
	if why != "" {
		result = cniwire.ResultSkipped
	}
	r.write(slog.LevelDebug, "ok", result, why)
}

func (r report) allowed(e *types.Error) {
	r.write(slog.LevelError, "not intercepted, and let through by failurePolicy allow", cniwire.ResultAllowed,
		reasonOf(e.Code),
		slog.Uint64("code", uint64(e.Code)), slog.String("error", e.Msg))
}

func (r report) failed(e *types.Error) {
	r.write(slog.LevelError, "failed", cniwire.ResultFailed, reasonOf(e.Code),
		slog.Uint64("code", uint64(e.Code)), slog.String("error", e.Msg))
}

// write makes one line and hands it to the file and the agent. That they do
// not take it fails no pod. The agent counts how calls end, and is told of each,
// also of those that the file is too coarse for.
func (r report) write(level slog.Level, message, result, reason string, attrs ...slog.Attr) {
	to := sinks{r.in.conf.LogFile, r.in.conf.LogMaxSize, r.in.conf.AgentSocket}
	var least slog.Level
	if least.UnmarshalText([]byte(r.in.conf.LogLevel)) != nil || level < least {
		to.file = ""
		if result == "" {
			return
		}
	}
	if to.file == "" && to.socket == "" {
		return
	}
	add := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	add("command", r.command)
	add("result", result)
	add("reason", reason)
	add("podNamespace", r.in.pod.Namespace)
	add("podName", r.in.pod.Name)
	add("podUID", r.in.pod.UID)
	add("containerID", r.in.pod.ContainerID)
	add("netns", r.in.netns)
	if result != "" {
		attrs = append(attrs, slog.Float64("seconds", time.Since(r.begun).Seconds()))
	}
	// In UTC: lines of different nodes can be compared, and the time zone need
	// not be read.
	record := slog.NewRecord(time.Now().UTC(), level, message, 0)
	record.AddAttrs(attrs...)
	lines := slog.NewJSONHandler(strict.EscapedJSON(to), &slog.HandlerOptions{Level: level})
	_ = lines.Handle(context.Background(), record)
}

// sinks take each line.
type sinks struct {
	file   string
	limit  int64
	socket string
}

var _ io.Writer = sinks{}

// Write implements [io.Writer].
func (s sinks) Write(line []byte) (int, error) {
	if s.file != "" {
		// There is nowhere to report it.
		_ = appendLine(s.file, s.limit, line)
	}
	if s.socket != "" {
		_ = cniwire.Send(s.socket, line)
	}
	return len(line), nil
}

package main

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/version"
)

// did is what came of a run.
type did struct {
	start time.Time
	// outcome is one word, such as created. Empty: the run failed before there was one.
	outcome string
	backend dataplane.Backend
	rules   int
	// causes are what a termination message says besides the error, the worst first.
	causes []string
}

// finish says how a run ended, where nobody reads standard output: in the log, in the container's termination message
// and in a file of metrics. What cannot be written is warned of, and changes nothing.
func (e execution) finish(code int, err error) {
	d := *e.did
	took := time.Since(d.start)
	if d.outcome == "" && code == cli.ExitDone {
		d.outcome = "done"
	}
	d.outcome = cmp.Or(d.outcome, "failed")
	if err == nil { // an error has said it
		// In a log for people it would only say once more what is on standard output.
		level := slog.LevelDebug
		if e.s.logFormat == "json" {
			level = slog.LevelInfo
		}
		e.log.LogAttrs(e.ctx, level, "result", slog.String("verb", e.verb), slog.String("outcome", d.outcome),
			slog.String("backend", string(d.backend)), slog.Int("rules", d.rules), slog.Int("exit", code),
			slog.Float64("seconds", took.Seconds()))
	}
	if err != nil && e.s.terminationLog != "" {
		var text strings.Builder
		for _, line := range append(e.console.Lines(err), d.causes...) {
			text.WriteString(e.console.Name + ": " + strict.OneLine(line) + "\n")
		}
		if err := writeTermination(e.s.terminationLog, text.String()); err != nil {
			e.log.WarnContext(e.ctx, "the termination message could not be written: "+err.Error())
		}
	}
	if e.s.metricsFile != "" {
		if err := replaceFile(e.s.metricsFile, d.metrics(e.verb, code, took)); err != nil {
			e.log.WarnContext(e.ctx, "the metrics could not be written: "+err.Error())
		}
	}
}

// maxTermination is what Kubernetes reads of a termination message.
const maxTermination = 4096

// writeTermination writes a termination message, if there is a file for it: a plain one, which no symbolic link names.
func writeTermination(path, text string) error {
	before, err := os.Lstat(path)
	if err != nil || !before.Mode().IsRegular() {
		return nil // no container, or not Kubernetes' file
	}
	if len(text) > maxTermination {
		const more = "…\n"
		text = strings.ToValidUTF8(text[:maxTermination-len(more)], "") + more
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	// Between the look and the opening somebody can have put a link there.
	if now, err := f.Stat(); err != nil || !os.SameFile(before, now) {
		return fmt.Errorf("%s has become another file", path)
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	return err
}

// replaceFile writes a file in one step: who reads it meanwhile has the old one or the new one. What is there and is no
// plain file, such as a device or a symbolic link, stays.
func replaceFile(path, text string) error {
	if before, err := os.Lstat(path); err == nil && !before.Mode().IsRegular() {
		return fmt.Errorf("%s is there and is not a regular file", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	if err == nil {
		err = f.Chmod(0o644) // another user reads it
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

// metrics are those of a run, in Prometheus' text format.
func (d did) metrics(verb string, code int, took time.Duration) string {
	var b strings.Builder
	labels := fmt.Sprintf("{verb=%q}", verb)
	gauge := func(name, labels, help, value string) {
		name = "mesh_init_" + name
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n%s%s %s\n", name, help, name, name, labels, value)
	}
	gauge("last_run_info", fmt.Sprintf("{verb=%q,outcome=%q,backend=%q,version=%q}", verb, d.outcome, d.backend,
		version.Short()), "What came of the last run.", "1")
	gauge("last_run_exit_code", labels, "The exit code of the last run; 0 is success.", strconv.Itoa(code))
	gauge("last_run_duration_seconds", labels, "How long the last run took.", number(took.Seconds()))
	gauge("last_run_timestamp_seconds", labels, "When the last run ended, in seconds since 1970.",
		number(float64(d.start.Add(took).UnixMilli())/1000))
	if d.rules > 0 {
		gauge("rules", labels, "How many rules the configuration has.", strconv.Itoa(d.rules))
	}
	return b.String()
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

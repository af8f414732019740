package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/version"
	"github.com/mesh-intercept/intercept/kube/internal/injector"
	"github.com/mesh-intercept/intercept/podspec/inject"
)

// The headings of the help.
const (
	groupPods  decode.Group = "What is injected"
	groupCerts decode.Group = "The webhook and its certificate"
	groupMiss  decode.Group = "Pods without a sidecar"
	groupAPI   decode.Group = "The API server"
	groupEnd   decode.Group = "Health and metrics"
)

func flags() []cli.Flag {
	row := func(name, form string, group decode.Group, initial, usage string) cli.Flag {
		return cli.Flag{Field: decode.Field{Name: name, Form: form, Group: group, Initial: initial, Usage: usage}}
	}
	return []cli.Flag{
		row("profile", "NAME", groupPods, "haproxy", "the profile of pods that name none, in namespaces that\nname none"),
		row("kubernetes-version", "VERSION", groupPods, "", "the oldest kubelet's, as in 1.28; if not given, the API\n"+
			"server's"),

		row("listen-webhook", "ADDRESS", groupCerts, ":9443", "where the API server asks, over TLS"),
		row("cert-dir", "DIR", groupCerts, "", "has tls.crt and tls.key, as of cert-manager; if not given,\n"+
			"the injector makes its own certificates"),
		row("cert-secret", "NAME", groupCerts, "mesh-injector-certs", "the Secret where it keeps them"),
		row("name", "NAME", groupCerts, "mesh-injector", "of the Service and of the webhook configurations"),

		row("sweep-interval", "DURATION", groupMiss, "5m", "how often running pods are looked at"),
		row("evict", "", groupMiss, "false", "evict pods that should have a sidecar and have none, one\n"+
			"of each workload at a time; it needs the right to"),

		row("namespace", "NAME", groupAPI, "", "the injector's own; if not given, that in POD_NAMESPACE"),
		row("kubeconfig", "FILE", groupAPI, "", "how the API server is reached; if not given, as kubelet\ntells pods"),

		row("listen", "ADDRESS", groupEnd, ":9993", "address of /healthz, /readyz and /metrics"),
		row("drain", "DURATION", groupEnd, "10s", "how long to go on answering after SIGTERM, until API\nservers ask others"),
		row("pprof", "ADDRESS", groupEnd, "", "address of Go's profiles; if not given, there are none"),
		row("log-level", "debug|info|warn|error", cli.GroupOutput, "info", "of the log on standard error"),
	}
}

// settle makes settings of flags and environment, and reports all that is wrong.
func settle(line cli.Line, env []string) (s injector.Settings, level slog.Level, err error) {
	errs := line.Errs
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	text := func(name string) string {
		f, _ := cli.Find(line.Flags, name)
		return line.Text(f)
	}
	if level.UnmarshalText([]byte(text("log-level"))) != nil {
		level = slog.LevelInfo // a bad level is among the errors
	}
	s = injector.Settings{Namespace: text("namespace"), Name: text("name"), Webhook: text("listen-webhook"),
		Listen: text("listen"), Pprof: text("pprof"), CertDir: text("cert-dir"), CertSecret: text("cert-secret"),
		Profile: text("profile"), Evict: text("evict") == "true"}
	for _, pair := range env {
		if name, ok := strings.CutPrefix(pair, "POD_NAMESPACE="); ok && s.Namespace == "" {
			s.Namespace = name
		}
	}
	if s.Namespace == "" {
		fail("--namespace: empty, and POD_NAMESPACE is not set; write the injector's namespace " +
			"(fieldRef metadata.namespace)")
	}
	for name, value := range map[string]string{"name": s.Name, "cert-secret": s.CertSecret, "profile": s.Profile,
		"namespace": s.Namespace} {
		if value != "" && len(validation.IsDNS1123Subdomain(value)) > 0 {
			fail("--%s: %q is not a name; write small letters, digits and dashes", name, strict.Clip(value))
		}
	}
	if s.Every, err = time.ParseDuration(text("sweep-interval")); err != nil {
		fail("--sweep-interval: %q is not a duration; write one like 30s or 5m", strict.Clip(text("sweep-interval")))
	} else if s.Every < time.Second {
		fail("--sweep-interval: %v is less than 1s", s.Every)
	}
	if s.Drain, err = time.ParseDuration(text("drain")); err != nil || s.Drain < 0 {
		fail("--drain: %q is not a duration; write one like 5s or 10s", strict.Clip(text("drain")))
	}
	for _, name := range []string{"listen-webhook", "listen", "pprof"} {
		_, port, err := net.SplitHostPort(text(name))
		if number, bad := strconv.ParseUint(port, 10, 16); (err != nil || bad != nil || number == 0) &&
			(name != "pprof" || text(name) != "") {
			fail("--%s: %q is not an address and a port, as in :9443", name, strict.Clip(text(name)))
		}
	}
	if s.CertDir != "" && !filepath.IsAbs(s.CertDir) {
		fail("--cert-dir: %q is not an absolute path", strict.Clip(s.CertDir))
	}
	if v := text("kubernetes-version"); v != "" {
		if s.Minor, err = inject.ParseVersion(v); err != nil {
			fail("--kubernetes-version: %w", err)
		}
	}
	// clientcmd would say in a log of its own that no file is given.
	if file := text("kubeconfig"); file != "" {
		s.API, err = clientcmd.BuildConfigFromFlags("", file)
	} else {
		s.API, err = rest.InClusterConfig()
	}
	if err != nil {
		fail("--kubeconfig: %w", err)
	} else {
		s.API.UserAgent, s.API.QPS, s.API.Burst = "mesh-injector/"+version.Short(), 50, 100
	}
	return s, level, errors.Join(errs...)
}

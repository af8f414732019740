//go:build linux

package settings_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/podspec"
	"github.com/mesh-intercept/intercept/settings"
)

// processorTime is what this process has used: other processes do not count.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// TestRefusalIsBounded: a long input with many mistakes is refused quickly, by
// every reader, and in few words.
func TestRefusalIsBounded(t *testing.T) {
	const n = 60_000
	many := func(format string) string {
		var b strings.Builder
		for i := range n {
			b.WriteString(strings.ReplaceAll(format, "#", strconv.Itoa(i)))
		}
		return b.String()
	}
	load := func(text string) error { _, err := settings.Load([]byte(text)); return err }
	annotation := func(name string) func(string) error {
		return func(text string) error {
			_, err := podspec.Read(
				map[string]string{"intercept.mesh/enabled": "true", "intercept.mesh/" + name: text},
				podspec.Options{},
			)
			return err
		}
	}
	entry := func(text string) error { _, err := cniconf.Parse([]byte(text)); return err }
	variable := func(text string) error { _, err := settings.FromEnvironment([]string{text}); return err }

	bomb := "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
	for i := range 9 {
		bomb += fmt.Sprintf(
			"a%d: &a%d [%s]\n",
			i+1,
			i+1,
			strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "),
		)
	}
	json := func(list string) string { return "{" + strings.TrimSuffix(list, ",") + "}" }
	exclude := func(items string) string {
		return `{"outbound": {"exclude": [` + strings.TrimSuffix(items, ",") + `]}}`
	}
	var annotations, environ []string
	for i := range n {
		annotations = append(annotations, fmt.Sprintf("intercept.mesh/outbound-exclude-port-%d", i))
		environ = append(environ, fmt.Sprintf("MESH_OUTBOUND_EXCLUDE_PORT_%d=1", i))
	}
	for name, refuse := range map[string]func() error{
		"unknown fields of JSON":      func() error { return load(json(many(`"exclude-port-#":1,`))) },
		"unknown fields of YAML":      func() error { return load(many("exclude-port-#: 1\n")) },
		"twice in JSON":               func() error { return load(json(many(`"dns":{},`))) },
		"twice in YAML":               func() error { return load(many("dns: {}\n")) },
		"exclusions without anything": func() error { return load(exclude(many("{},"))) },
		"unreadable exclusions":       func() error { return load(exclude(many(`{"ports":"x"},`))) },
		"exclusions of text":          func() error { return load(exclude(many(`"udp x#",`))) },
		"half of each":                func() error { return load(exclude(many(`{"ports":"x"},{},`))) },
		"items": func() error {
			return load(`{"outbound":{"excludePorts":[` + strings.TrimSuffix(many(`"x#",`), ",") + `]}}`)
		},
		"commas":                 func() error { return variable("MESH_OUTBOUND_EXCLUDE_PORTS=" + strings.Repeat(",", n)) },
		"one long item":          func() error { return variable("MESH_OUTBOUND_EXCLUDE_CIDRS=" + strings.Repeat("1", 8*n)) },
		"one long word":          func() error { return variable("MESH_DNS=" + strings.Repeat("x", 8*n)) },
		"one long port":          func() error { return variable("MESH_OUTBOUND_PORT=" + strings.Repeat("x", 8*n)) },
		"one long value":         func() error { return variable("MESH_DNS=" + strings.Repeat("X_", 8*n) + "=1") },
		"semicolons":             func() error { return variable("MESH_OUTBOUND_EXCLUDE=" + strings.Repeat(";", n)) },
		"words of one exclusion": func() error { return variable("MESH_OUTBOUND_EXCLUDE=" + many("x# ")) },
		"servers":                func() error { return variable("MESH_DNS_SERVERS=" + many("x#,")) },
		"interfaces": func() error {
			return variable("MESH_EXCLUDE_INTERFACES=" +
				strings.TrimSuffix(many("a/#,"), ","))
		},
		"variables":          func() error { _, err := settings.FromEnvironment(environ); return err },
		"annotation config":  func() error { return annotation("config")(exclude(many(`{"ports":"x"},{},`))) },
		"annotation exclude": func() error { return annotation("outbound-exclude")(many("x#;")) },
		"annotations": func() error {
			all := map[string]string{"intercept.mesh/enabled": "true"}
			for _, a := range annotations {
				all[a] = "1"
			}
			_, err := podspec.Read(all, podspec.Options{})
			return err
		},
		"entry":            func() error { return entry(json(many(`"agent-socket-#":1,`))) },
		"entry's defaults": func() error { return entry(`{"defaults":` + exclude(many(`{"ports":"x"},{},`)) + `}`) },
		"entry's lists": func() error {
			return entry(`{"excludeNamespaces":[` + strings.TrimSuffix(many(`"a/#",`),
				",") + `]}`)
		},
		"aliases":            func() error { return load(bomb) },
		"an alias of itself": func() error { return load("dns: &a {servers: [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]}") },
		"deep YAML":          func() error { return load(strings.Repeat("[", n)) },
		"deep JSON":          func() error { return load(strings.Repeat("[", n) + strings.Repeat("]", n)) },
		"deep mapping":       func() error { return load(strings.Repeat(`{"a":`, n)) },
	} {
		start := processorTime(t)
		err := refuse()
		took := processorTime(t) - start
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if took > 5*time.Second {
			t.Errorf("%s: it took %v", name, took)
		}
		if size := len(err.Error()); size > 8<<10 {
			t.Errorf("%s: %d bytes of error: %.200s…", name, size, err)
		}
		t.Logf("%-30s %8v %.120s", name, took.Round(time.Millisecond), strings.ReplaceAll(err.Error(), "\n", " | "))
	}
}

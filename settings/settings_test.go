package settings_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/podspec"
	"github.com/mesh-intercept/intercept/settings"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// texts is a configuration in a form that compares by meaning: a list that holds
// every port is one, however it is written.
func texts(c intercept.Config) []string { return settings.Args(c, settings.All) }

// fromArgs reads a command line.
func fromArgs(args []string) (intercept.Config, error) {
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags := settings.RegisterFlags(set)
	if err := set.Parse(args); err != nil {
		return intercept.Config{}, err
	}
	r, err := settings.Read(settings.Sources{Flags: flags})
	return r.Config, err
}

// roundTrip writes a configuration in every form and reads it again.
func roundTrip(t *testing.T, c intercept.Config, options ...settings.Option) {
	t.Helper()
	const prefix = "mesh.example.org"
	forms := map[string]func() (intercept.Config, error){
		"arguments":   func() (intercept.Config, error) { return fromArgs(settings.Args(c, options...)) },
		"environment": func() (intercept.Config, error) { return settings.FromEnvironment(settings.Environ(c, options...)) },
		"YAML":        func() (intercept.Config, error) { return settings.Load(settings.YAML(c, options...)) },
		"YAML 1.1": func() (intercept.Config, error) {
			back := intercept.Default()
			return back, sigsyaml.UnmarshalStrict(settings.YAML(c, options...), &back)
		},
		"annotations": func() (intercept.Config, error) {
			spec, err := podspec.Read(settings.Annotations(c, prefix, options...), podspec.Options{Prefix: prefix})
			return spec.Config, err
		},
		"JSON": func() (intercept.Config, error) {
			data, err := json.Marshal(c)
			if err != nil {
				return c, err
			}
			return settings.Load(data)
		},
	}
	want := texts(c)
	for name, form := range forms {
		got, err := form()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, settings.YAML(c))
			continue
		}
		if diff := cmp.Diff(want, texts(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// FuzzRoundTrip holds that every valid configuration comes back as it was from
// arguments, environment, YAML, annotations and JSON.
func FuzzRoundTrip(f *testing.F) {
	for seed := range uint64(200) {
		f.Add(seed, seed%3 == 0)
	}
	f.Fuzz(func(t *testing.T, seed uint64, all bool) {
		c := gen.Config(rand.New(rand.NewPCG(seed, 0)))
		if all {
			roundTrip(t, c, settings.All)
		} else {
			roundTrip(t, c)
		}
	})
}

// FuzzLoad holds that what can be loaded from any bytes comes back as it was,
// too.
func FuzzLoad(f *testing.F) {
	f.Add([]byte("inbound: {mode: off}\noutbound: {exclude: ['udp :53', {cidrs: 10.0.0.0/32}]}"))
	f.Add([]byte(`{"excludeInterfaces": ["a", "b*"], "proxy": {"mark": "0x7/0xf"}, "loopback": ["127.0.0.0/8", "::1"]}`))
	f.Add([]byte("base: &b [1]\ndns: {servers: *b}\n"))
	f.Add([]byte("dns: {mode: resolvconf}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := settings.Load(data)
		if err != nil {
			return
		}
		if c.DNS.Mode == intercept.DNSResolvConf && len(c.DNS.Servers) == 0 {
			return // its JSON asks for no servers, which is an error
		}
		roundTrip(t, c)
	})
}

// TestSources: flags go before the environment, that before the file, that
// before the defaults, and each field says where it came from.
func TestSources(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(file, []byte("# ours\ntunnelPort: 1\ndns:\n  port: 2\n  mode: all\noutbound:\n  exclude:\n  "+
		"- tcp :1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	flags := settings.RegisterFlags(set)
	if err := set.Parse([]string{"--dns=off", "--drop-invalid", "--inbound-exclude", ":7",
		"--inbound-exclude=:8"}); err != nil {
		t.Fatal(err)
	}
	_, err := settings.Read(settings.Sources{
		File: file, Environ: []string{"PATH=/bin", "MESH_DNS=x", "MESH_DNS_PORT=3", "MESH_FOO=1", "MESH_WEB_SERVICE_HOST=1"},
		Flags: flags, OwnVariables: []string{"MESH_FOO"},
	})
	if err == nil || err.Error() != `MESH_DNS: "x" is not one of off, resolvconf, all` {
		t.Fatalf("%v", err)
	}
	r, err := settings.Read(settings.Sources{
		File: file, Environ: []string{"MESH_DNS_PORT=3", "MESH_TUNNEL_PORT=4"}, Flags: flags,
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]settings.Origin{
		"dns.mode": {Source: "--dns"}, "inbound.dropInvalid": {Source: "--drop-invalid"},
		"inbound.exclude": {Source: "--inbound-exclude"},
		"dns.port":        {Source: "MESH_DNS_PORT"}, "tunnelPort": {Source: "MESH_TUNNEL_PORT"},
		"outbound.exclude": {Source: file, Line: 8},
		"outbound.port":    {}, "families": {},
	} {
		if got := r.Origin(path); got != want {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
	}
	if got := strings.Join(settings.Args(r.Config), " "); got != "--tunnel-port=4 --dns-port=3 --inbound-exclude=:7; :8 "+
		"--drop-invalid --outbound-exclude=tcp :1" {
		t.Error(got)
	}
}

// TestErrors: each mistake names its source, field and line, and all are there.
func TestErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mesh.yaml")
	if err := os.WriteFile(file, []byte("dns:\n  mode: off\n  port: x\nproxy:\n  uids: [0]\ninbound:\n  exclude-ports: "+
		"1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := settings.Read(
		settings.Sources{
			File:    file,
			Environ: []string{"MESH_EXCLUDE_CIDRS=10.0.0.0/8", "MESH_OUTBOUND_EXCLUDE_PORTS=80;443"},
		},
	)
	want := []struct {
		text string
		intercept.FieldError
	}{
		{
			file + `: inbound.exclude-ports: unknown field; did you mean excludePorts? (line 7)`,
			intercept.FieldError{Field: "inbound.exclude-ports", Source: file, Line: 7},
		},
		{
			file + `: dns.port: "x" is not a port (a number from 1 to 65535) (line 3)`,
			intercept.FieldError{Field: "dns.port", Source: file, Line: 3},
		},
		{"MESH_EXCLUDE_CIDRS: unknown variable; did you mean MESH_OUTBOUND_EXCLUDE_CIDRS?", intercept.FieldError{}},
		{
			`MESH_OUTBOUND_EXCLUDE_PORTS: "80;443": commas separate the items of a list; write 80,443`,
			intercept.FieldError{Field: "outbound.excludePorts", Source: "MESH_OUTBOUND_EXCLUDE_PORTS"},
		},
		{
			"proxy.uids: 0: every process that runs as root would escape interception; run the proxy as another user, or " +
				"allow it with proxy.allowRoot (from " + file + ", line 5)",
			intercept.FieldError{Field: "proxy.uids", Source: file, Line: 5, Other: "proxy.allowRoot"},
		},
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != len(want) {
		t.Fatalf("%v", err)
	}
	for i, e := range joined.Unwrap() {
		if e.Error() != want[i].text {
			t.Errorf("%v\nwant %s", e, want[i].text)
		}
		var got intercept.FieldError
		if field, ok := errors.AsType[*intercept.FieldError](e); ok {
			got = *field
			got.Err = nil
		}
		if got != want[i].FieldError {
			t.Errorf("%+v, want %+v", got, want[i].FieldError)
		}
	}
	if _, err := settings.Load(nil); err == nil || !strings.Contains(err.Error(), "empty file") {
		t.Errorf("nothing at all: %v", err)
	}
	if _, err := settings.LoadFile("/nonexistent/mesh.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	settings.RegisterFlags(set)
	if err := set.Parse([]string{"--dns=all", "--dns=off"}); err == nil || !strings.Contains(err.Error(), "given twice") {
		t.Errorf("a flag twice: %v", err)
	}
}

// TestNameserversInPod: mode resolvconf needs no servers where only the pod
// knows them.
func TestNameserversInPod(t *testing.T) {
	const text = "dns: {mode: resolvconf}"
	r, err := settings.Read(settings.Sources{Data: []byte(text)})
	if err != nil || !r.NameserversInPod || len(r.Config.DNS.Servers) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = settings.Read(
		settings.Sources{Data: []byte(text), Nameservers: intercept.ParseResolvConf("nameserver 10.0.0.10\n")},
	)
	if err != nil || r.NameserversInPod || len(r.Config.DNS.Servers) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := settings.Load([]byte("dns: {mode: resolvconf, servers: []}")); err == nil ||
		!strings.Contains(err.Error(), "dns.servers: none") {
		t.Errorf("none, and asked for so: %v", err)
	}
}

// TestFields: the table is whole.
func TestFields(t *testing.T) {
	for _, f := range settings.Fields() {
		if f.Path == "" || !strings.HasPrefix(f.Flag, "--") || f.Variable == "" || f.Annotation == "" || f.Default == "" ||
			f.Meaning == "" {
			t.Errorf("%+v", f)
		}
	}
}

// TestNote: variables of others are passed over, and named.
func TestNote(t *testing.T) {
	long := "MESH_" + strings.Repeat("X_", 100_000)
	r, err := settings.Read(settings.Sources{Environ: []string{"MESH_ID=1", "MESH_DNS_PORT=tcp://10.0.0.1:53",
		long + "=1"}})
	if err != nil || r.Config.DNS.Port != 15053 || !strings.Contains(r.Note, "MESH_ID") || len(r.Note) > 500 {
		t.Errorf("%v, port %v, %q", err, r.Config.DNS.Port, r.Note)
	}
	if r, err := settings.Read(settings.Sources{Environ: []string{"MESH_DNS=all", "PATH=/"}}); err != nil || r.Note != "" {
		t.Errorf("%v, %q", err, r.Note)
	}
}

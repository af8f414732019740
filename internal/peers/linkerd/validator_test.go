package linkerd

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept/internal/peers"
)

// TestValidator: every flag of linkerd2-network-validator, with its default, and what is made of them.
func TestValidator(t *testing.T) {
	want := []string{"log-level info", "log-format plain", "timeout 10s", "listen-addr 0.0.0.0:4140",
		"connect-addr 192.0.2.2:1404", "help false"}
	var got []string
	new(validation).flags(nil).VisitAll(func(f *pflag.Flag) { got = append(got, f.Name+" "+f.DefValue) })
	if !slices.Equal(got, want) {
		t.Errorf("the flags are %q, should be %q", got, want)
	}
	r, err := ParseValidator(nil, peers.World{})
	if want := (peers.Arrival{
		Listen:  netip.MustParseAddrPort("0.0.0.0:4140"),
		To:      netip.MustParseAddrPort("192.0.2.2:1404"),
		Timeout: 10 * time.Second,
	}); err != nil || *r.Arrival != want || r.Action != peers.Nothing {
		t.Errorf("%v, %+v", err, r)
	}
	env := peers.World{Environ: []string{"LINKERD_VALIDATOR_LOG_LEVEL=trace", "LINKERD_VALIDATOR_LOG_FORMAT=json"}}
	if r, err := ParseValidator(nil, env); err != nil || r.LogLevel != "debug" || r.LogFormat != "json" {
		t.Errorf("%v, %+v", err, r)
	}
	r, err = ParseValidator([]string{"--log-level", "linkerd=debug,info"}, env)
	if err != nil || r.LogLevel != "info" || len(r.Warnings) != 1 {
		t.Errorf("%v, %+v", err, r)
	}
}

// TestValidatorRefuses: what is wrong is said by flag and token.
func TestValidatorRefuses(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"--timeout 120", `--timeout "120": it is no whole number with a unit`},
		{"--timeout s", `--timeout "s"`},
		{"--timeout 18446744073709551615s", `--timeout`},
		{"--timeout 99999999999d", `--timeout`},
		{"--listen-addr 4140", `--listen-addr "4140": it is no address with a port`},
		{"--connect-addr [::1]:80", `it is not of the family of --listen-addr 0.0.0.0:4140`},
		{"--log-format ansi", `--log-format "ansi"`},
		{"--netns a", "--netns"},
		{"now", "now: there are no arguments but flags"},
	} {
		_, err := ParseValidator(strings.Fields(test.args), peers.World{})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, should have %q", test.args, err, test.want)
		}
	}
	for text, want := range map[string]time.Duration{
		"0": 0, "0ms": 0, " 2m ": 2 * time.Minute, "1500ms": 1500 * time.Millisecond, "2d": 48 * time.Hour,
	} {
		if d, err := duration(text); err != nil || d != want {
			t.Errorf("%q: %s, %v", text, d, err)
		}
	}
}

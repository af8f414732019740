package strict

import (
	"strings"
	"testing"
	"time"
)

func flagNames() []string {
	return strings.Fields(`
		--outbound-port --inbound-port --tunnel-port --dns-port --proxy-uid --proxy-gid --proxy-mark --allow-root-proxy
		--inbound-mode --inbound-include-ports --inbound-exclude-ports --inbound-exclude-sources --inbound-exclude
		--tproxy-mark --tproxy-self-mark --tproxy-table --drop-invalid --outbound-include-cidrs --outbound-exclude-cidrs
		--outbound-include-ports --outbound-exclude-ports --outbound-exclude --outbound-target --udp --quic
		--include-uids --exclude-uids --include-gids --exclude-gids --dns --dns-target --dns-servers
		--exclude-interfaces --virtual-interfaces --loopback --families --netns --dry-run`)
}

// TestHint: a name is answered with what it means, and with nothing where that
// is not clear.
func TestHint(t *testing.T) {
	for name, want := range map[string]string{
		"--inbound-ports":             "--inbound-include-ports or --inbound-exclude-ports",
		"--exclude-cidrs":             "--outbound-exclude-cidrs",
		"--exclude-ports":             "--inbound-exclude-ports or --outbound-exclude-ports",
		"--exclude-inbound-ports":     "--inbound-exclude-ports",
		"--outbond-port":              "--outbound-port",
		"--inbuond-port":              "--inbound-port",
		"-dns":                        "--dns",
		"--outbound-exclude-port":     "--outbound-exclude-ports",
		"--include-uid":               "--include-uids",
		"--proxy-uids":                "--proxy-uid",
		"--inbound-include-sources":   "", // not the opposite
		"--include-cidr":              "--outbound-include-cidrs",
		"--include-cidrs":             "--outbound-include-cidrs",
		"--interface-exclude":         "",
		"--interfaces-exclude":        "--exclude-interfaces",
		"--droppinvalid":              "--drop-invalid",
		"-p":                          "--outbound-port",
		"-z":                          "--inbound-port",
		"-i":                          "--outbound-include-cidrs",
		"-x":                          "--outbound-exclude-cidrs",
		"-b":                          "--inbound-include-ports",
		"-d":                          "--inbound-exclude-ports",
		"-o":                          "--outbound-exclude-ports",
		"--istio-service-cidr":        "--outbound-include-cidrs",
		"--excludeOutboundIPRanges":   "--outbound-exclude-cidrs",
		"--skip-outbound-ports":       "--outbound-exclude-ports",
		"--envoy-port":                "--outbound-port",
		"--exclude-outbound-ips":      "--outbound-exclude-cidrs",
		"--exclude-inbound-ips":       "--inbound-exclude-sources",
		"--egress-ignored-ports":      "--outbound-exclude-ports",
		"--port":                      "",
		"--foo":                       "",
		"":                            "",
		"--":                          "",
		"--ports":                     "",
		"--excludes":                  "",
		"--" + strings.Repeat("a", 9): "",
	} {
		got := Hint(name, flagNames(), "")
		if want != "" {
			want = "did you mean " + want + "?"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, tt := range []struct{ name, candidates, want string }{
		{"aply", "apply remove check", "apply"},
		{"uninstall", "apply remove check", "remove"},
		{"Outbound", "outbound inbound", "outbound"},
		{"outboud", "outbound inbound", "outbound"},
		{"MESH_EXCLUDE_CIDRS", "MESH_OUTBOUND_EXCLUDE_CIDRS MESH_DNS", "MESH_OUTBOUND_EXCLUDE_CIDRS"},
		{"excludePort", "port excludePorts includePorts", "excludePorts"},
		{"excludePorts", "outbound.excludePorts inbound.excludePorts", "outbound.excludePorts or inbound.excludePorts"},
		{"outbound-exclude-ports", "outbound.excludePorts inbound.excludePorts", "outbound.excludePorts"},
		{"agentSockt", "agentSocket agentPod", "agentSocket"},
	} {
		if got, want := Hint(tt.name, strings.Fields(tt.candidates), ""), "did you mean "+tt.want+"?"; got != want {
			t.Errorf("%s: %q, want %q", tt.name, got, want)
		}
	}
}

// TestHintIsBounded: a long name is not compared.
func TestHintIsBounded(t *testing.T) {
	start := time.Now()
	for _, name := range []string{strings.Repeat("x", maxName), strings.Repeat("a-", 1<<20)} {
		if got := Hint(name, flagNames(), "else"); got != "else" {
			t.Errorf("%.20s: %q", name, got)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// FuzzHint holds that there is no panic, and one answer or none.
func FuzzHint(f *testing.F) {
	f.Add("--exclude-cidrs")
	f.Add("éÉ_ß")
	f.Fuzz(func(t *testing.T, name string) {
		if got := Hint(name, flagNames(), ""); got != "" && !strings.HasPrefix(got, "did you mean --") {
			t.Errorf("%q: %q", name, got)
		}
	})
}

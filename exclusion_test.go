package intercept_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
)

func mustCIDRs(t *testing.T, s string) intercept.CIDRs {
	t.Helper()
	c, err := intercept.ParseCIDRs(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseExclusion(t *testing.T) {
	ports := func(r ...intercept.PortRange) intercept.Ports { return r }
	for text, want := range map[string]intercept.Exclusion{
		"tcp":         {Protocol: intercept.TCP},
		":53":         {Ports: ports(intercept.Port(53))},
		"10.0.0.0/8":  {CIDRs: mustCIDRs(t, "10.0.0.0/8")},
		"10.0.0.1:80": {CIDRs: mustCIDRs(t, "10.0.0.1"), Ports: ports(intercept.Port(80))},
		"10.0.0.1,10.0.0.2:80,443": {CIDRs: mustCIDRs(t, "10.0.0.1,10.0.0.2"), Ports: ports(intercept.Port(80),
			intercept.Port(443))},
		"*:53":                {CIDRs: intercept.AllCIDRs(), Ports: ports(intercept.Port(53))},
		"fd00::/8":            {CIDRs: mustCIDRs(t, "fd00::/8")},
		"10.0.0.0/8,fd00::/8": {CIDRs: mustCIDRs(t, "10.0.0.0/8,fd00::/8")},
		"[fd00::1]":           {CIDRs: mustCIDRs(t, "fd00::1")},
		"[fd00::/8]:5000-6000": {CIDRs: mustCIDRs(t, "fd00::/8"), Ports: ports(intercept.PortRange{First: 5000,
			Last: 6000})},
		"[10.0.0.0/8,fd00::1]:*": {CIDRs: mustCIDRs(t, "10.0.0.0/8,fd00::1"), Ports: intercept.AllPorts()},
		"uid=1000-1999,7":        {UIDs: intercept.IDs{{First: 1000, Last: 1999}, intercept.ID(7)}},
		"  gid=0   udp  10.0.0.0/8:5000-6000 uid=1 ": {
			Protocol: intercept.UDP, CIDRs: mustCIDRs(t, "10.0.0.0/8"), Ports: ports(intercept.PortRange{First: 5000,
				Last: 6000}),
			UIDs: intercept.IDs{intercept.ID(1)}, GIDs: intercept.IDs{intercept.ID(0)},
		},
	} {
		got, err := intercept.ParseExclusion(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if diff := cmp.Diff(want, got, sameConfig); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestParseExclusionRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "empty exclusion",
		"sctp":                "neither a protocol, nor a destination",
		"53":                  "a port as :53",
		"eth0=1":              "unknown property",
		"uid":                 "neither a protocol, nor a destination",
		"uid=":                `empty list ""`,
		"uid=none":            `empty list "none"`,
		"uid=root":            `"root" is not a user or group ID`,
		":":                   `empty list ""`,
		"10.0.0.1:":           `empty list ""`,
		"10.0.0.1:none":       `empty list "none"`,
		"10.0.0.1:0":          `port "0"`,
		"10.0.0.1/8":          "host bits",
		"[]:53":               `empty list ""`,
		"[fd00::1":            "a closing ] is missing",
		"[fd00::1]53":         `"53" after ]`,
		"[fd00::1]:":          `empty list ""`,
		"fd00::1":             `"fd00::1" can be an IPv6 address, or one and a port; write [fd00::1]`,
		"fd00::/8:53":         `"fd00::/8:53" can be`,
		"10.0.0.1,fd00::1:53": `"fd00::1:53" can be`,
		"tcp udp":             `a second protocol beside "tcp"`,
		"10.0.0.1 10.0.0.2":   `a second destination beside "10.0.0.1"`,
		"uid=1 uid=2":         `a second uid beside "uid=1"`,
		"tcp :80-70 uid=x":    `":80-70": port range "80-70" ends before it begins`,
	} {
		got, err := intercept.ParseExclusion(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

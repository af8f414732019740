package decode

import (
	"strings"
	"testing"

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
		"tcp":                      {Protocol: intercept.TCP},
		":53":                      {Ports: ports(intercept.Port(53))},
		"10.0.0.0/8":               {CIDRs: mustCIDRs(t, "10.0.0.0/8")},
		"10.0.0.1:80":              {CIDRs: mustCIDRs(t, "10.0.0.1"), Ports: ports(intercept.Port(80))},
		"10.0.0.1,10.0.0.2:80,443": {CIDRs: mustCIDRs(t, "10.0.0.1,10.0.0.2"), Ports: ports(intercept.Port(80), intercept.Port(443))},
		"*:53":                     {CIDRs: intercept.AllCIDRs(), Ports: ports(intercept.Port(53))},
		"fd00::/8":                 {CIDRs: mustCIDRs(t, "fd00::/8")},
		"10.0.0.0/8,fd00::/8":      {CIDRs: mustCIDRs(t, "10.0.0.0/8,fd00::/8")},
		"[fd00::1]":                {CIDRs: mustCIDRs(t, "fd00::1")},
		"[fd00::/8]:5000-6000":     {CIDRs: mustCIDRs(t, "fd00::/8"), Ports: ports(intercept.PortRange{First: 5000, Last: 6000})},
		"[10.0.0.0/8,fd00::1]:*":   {CIDRs: mustCIDRs(t, "10.0.0.0/8,fd00::1"), Ports: intercept.AllPorts()},
		"uid=1000-1999,7":          {UIDs: intercept.IDs{{First: 1000, Last: 1999}, intercept.ID(7)}},
		"  gid=0   udp  10.0.0.0/8:5000-6000 uid=1 ": {
			Protocol: intercept.UDP, CIDRs: mustCIDRs(t, "10.0.0.0/8"), Ports: ports(intercept.PortRange{First: 5000, Last: 6000}),
			UIDs: intercept.IDs{intercept.ID(1)}, GIDs: intercept.IDs{intercept.ID(0)},
		},
	} {
		got, err := parseExclusion(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if diff := equalConfigs(want, got); diff != "" {
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
		got, err := parseExclusion(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

// exclusionText is the text form of an exclusion.
func exclusionText(e intercept.Exclusion) string {
	var words []string
	if e.Protocol != 0 {
		words = append(words, e.Protocol.String())
	}
	dst := ""
	if len(e.CIDRs) > 0 {
		dst = "[" + e.CIDRs.String() + "]"
	}
	if len(e.Ports) > 0 {
		dst += ":" + e.Ports.String()
	}
	if dst != "" {
		words = append(words, dst)
	}
	if len(e.UIDs) > 0 {
		words = append(words, "uid="+e.UIDs.String())
	}
	if len(e.GIDs) > 0 {
		words = append(words, "gid="+e.GIDs.String())
	}
	return strings.Join(words, " ")
}

// FuzzParseExclusions holds that the parser gives an error or exclusions, and
// not both; that what it accepts is valid; and that its text form means it.
func FuzzParseExclusions(f *testing.F) {
	for _, seed := range []string{
		"none", "tcp :80", "udp 10.0.0.0/8:5000-6000 uid=1000-1999; [fd00::/8]:53", "fd00::/8,10.0.0.1", "uid=1 gid=2,3-4",
		"*:*", "[*]:53", "[,]:1", "fd00::1:53", "tcp tcp", ";;", "[[::1]]:2", "a=b=c", "tcp=1", "10.0.0.0/8:1:2",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseExclusions(text)
		if err != nil {
			if list != nil {
				t.Fatalf("both %v and %v", list, err)
			}
			return
		}
		if len(list) == 0 && strings.TrimSpace(text) != "none" {
			t.Fatalf("%q is nothing", text)
		}
		c := intercept.Default()
		c.Outbound.Exclude = list
		if err := c.Validate(); err != nil {
			t.Fatalf("%q is accepted, but %v", text, err)
		}
		var again []string
		for _, e := range list {
			again = append(again, exclusionText(e))
		}
		if len(again) == 0 {
			return
		}
		back, err := parseExclusions(strings.Join(again, ";"))
		if err != nil {
			t.Fatalf("%q: its text form %q: %v", text, again, err)
		}
		for i := range list {
			if got := exclusionText(back[i]); got != again[i] {
				t.Fatalf("%q became %q", again[i], got)
			}
		}
	})
}

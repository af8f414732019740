package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/explain"
)

func TestExplainText(t *testing.T) {
	for _, tc := range []struct {
		name string
		args string
		want string
	}{
		{"an app's call", "--dst 10.1.2.3:443 --exclude-interfaces net1",
			`redirect(15001): goes to the proxy's port 15001 for outbound connections

packet:  tcp 192.0.2.1:40000 -> 10.1.2.3:443, leaving by eth0, from the app (UID 1000, GID 1000)
config:  --exclude-interfaces; the rest are the defaults
decided: O12: every destination is included

RULE     REASON                                  MATCH
output:
O1.net1  excluded interface                      no: not leaving by net1
O2       the proxy's passthrough source          no: not leaving by lo
O3.uid   the proxy calls its own pod (by user)   no: not leaving by lo
O3.gid   the proxy calls its own pod (by group)  no: not leaving by lo
O4.uid   from the proxy (by user)                no: not UID 1337
O4.gid   from the proxy (by group)               no: not GID 1337
O6       inside the pod                          no: not leaving by lo
O9       the exempt loopback range               no: not destination 127.0.0.1,::1
O12      every destination is included           yes: redirect to :15001
`},
		{"a probe", "--from outside --dst [fd00::1]:15021 --src fd00::9", `pass: goes on untouched: it is not captured

packet:  tcp [fd00::9]:40000 -> [fd00::1]:15021, arriving by eth0
config:  the defaults, since none was given
decided: I6: excluded port

RULE         REASON                        MATCH
prerouting:
I9.loopback  to loopback, from outside     no: not destination 127.0.0.0/8
I9           not to an address of the pod  no: to an address of the pod
I4           the tunnel port               no: not port 15008
I6           excluded port                 yes: return
filter_input:
B9.opens     opens a connection            yes: goto syn_input
syn_input:
B9.lo        inside the pod                no: not arriving by lo
B9.dnat      translated                    no: not of a translated connection
B9.port      the proxy's own port          no: not port 15006
input/I4     the tunnel port               no: not port 15008
input/I6     excluded port                 yes: return
`},
		{"an owner who is included, by way of another chain",
			"--dst 10.1.2.3:443 --include-uids 1000 --passthrough-sources none --inbound-mode off",
			`redirect(15001): goes to the proxy's port 15001 for outbound connections

packet:  tcp 192.0.2.1:40000 -> 10.1.2.3:443, leaving by eth0, from the app (UID 1000, GID 1000)
config:  --include-uids, --passthrough-sources, --inbound-mode; the rest are the defaults
decided: O12: every destination is included

RULE             REASON                         MATCH
output:
O4.uid           from the proxy (by user)       no: not UID 1337
O4.gid           from the proxy (by group)      no: not GID 1337
O6               inside the pod                 no: not leaving by lo
O7.included-uid  included user                  yes: goto output_included
output_included:
O9               the exempt loopback range      no: not destination 127.0.0.1,::1
O12              every destination is included  yes: redirect to :15001
`},
		{"a family left out", "--dst [fd00::1]:443 --families ipv4", `pass: goes on untouched: it is not captured

packet:  tcp [2001:db8::1]:40000 -> [fd00::1]:443, leaving by eth0, from the app (UID 1000, GID
         1000)
config:  --families; the rest are the defaults
decided: IPv6 is not captured
`},
		{"nothing is asked", "--from outside --inbound-mode off --dst 10.0.0.1:80", `pass: goes on untouched: it is not captured

packet:  tcp 192.0.2.1:40000 -> 10.0.0.1:80, arriving by eth0
config:  --inbound-mode; the rest are the defaults
decided: no rule decides on such a packet
`},
		{"invalid, dropped", "--from outside --dst 10.0.0.1:80 --state invalid --drop-invalid", `drop: is discarded

packet:  tcp 192.0.2.1:40000 -> 10.0.0.1:80 (invalid), arriving by eth0
config:  --drop-invalid; the rest are the defaults
decided: I3: conntrack calls it invalid

RULE  REASON                      MATCH
invalid:
I3    conntrack calls it invalid  yes: drop
`},
		{"invalid, let go", "--from outside --dst 10.0.0.1:80 --state invalid --backstop off",
			`pass: goes on untouched: it is not captured

packet:  tcp 192.0.2.1:40000 -> 10.0.0.1:80 (invalid), arriving by eth0
config:  --backstop; the rest are the defaults
decided: redirecting rules are not asked about an invalid packet, and --drop-invalid is off
`},
		{"invalid, at second sight", "--from outside --dst 10.0.0.1:80 --state invalid",
			`reject: is discarded, and its sender told

packet:  tcp 192.0.2.1:40000 -> 10.0.0.1:80 (invalid), arriving by eth0
config:  the defaults, since none was given
decided: B9.I7: untranslated: every port is included

RULE      REASON                                MATCH
filter_input:
B9.opens  opens a connection                    yes: goto syn_input
syn_input:
B9.lo     inside the pod                        no: not arriving by lo
B9.dnat   translated                            no: not of a translated connection
B9.port   the proxy's own port                  no: not port 15006
input/I4  the tunnel port                       no: not port 15008
input/I6  excluded port                         no: not port 15020,15021,15090
B9.I7     untranslated: every port is included  yes: reject
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := invoke(t, "", nil, append([]string{"explain"}, strings.Fields(tc.args)...)...)
			if diff := cmp.Diff(tc.want, r.out); diff != "" || r.code != cli.ExitDone {
				t.Errorf("exit code %d, %s (-want +got):\n%s", r.code, r.stderr, diff)
			}
		})
	}
}

// TestExplain holds the packet that the flags describe against its fate.
func TestExplain(t *testing.T) {
	for _, tc := range []struct {
		args               string
		fate, line, packet string
	}{
		{"--dst 10.1.2.3:443", "redirect(15001)", "O12",
			"tcp 192.0.2.1:40000 -> 10.1.2.3:443, leaving by eth0, from the app (UID 1000, GID 1000)"},
		{"--dst [fd00::1]:443 --uid 5 --gid 6 --src [fd00::2]:7 --interface net1", "redirect(15001)", "O12",
			"tcp [fd00::2]:7 -> [fd00::1]:443, leaving by net1, from the app (UID 5, GID 6)"},
		{"--dst 127.0.0.1:80", "pass", "O6",
			"tcp 127.0.0.1:40000 -> 127.0.0.1:80, leaving by lo, from the app (UID 1000, GID 1000)"},
		{"--dst [::1]:80 --interface lo", "pass", "O6",
			"tcp [::1]:40000 -> [::1]:80, leaving by lo, from the app (UID 1000, GID 1000)"},
		{"--dst 10.1.2.3:80 --to-self", "pass", "O6",
			"tcp 10.1.2.3:40000 -> 10.1.2.3:80, leaving by lo, from the app (UID 1000, GID 1000)"},
		{"--dst 10.1.2.3:80 --uid 1337", "pass", "O4",
			"tcp 192.0.2.1:40000 -> 10.1.2.3:80, leaving by eth0, from the proxy (UID 1337, GID 1000)"},
		{"--from proxy --dst 10.1.2.3:80", "pass", "O4",
			"tcp 192.0.2.1:40000 -> 10.1.2.3:80, leaving by eth0, from the proxy (UID 1337, GID 1337)"},
		{"--from proxy --dst 10.1.2.3:80 --proxy-uid none --proxy-gid 5-9", "pass", "O4",
			"tcp 192.0.2.1:40000 -> 10.1.2.3:80, leaving by eth0, from the proxy (UID 65534, GID 5)"},
		{"--from proxy --to-self --dst 10.1.2.3:80", "redirect(15006)", "O3",
			"tcp 10.1.2.3:40000 -> 10.1.2.3:80, leaving by lo, from the proxy (UID 1337, GID 1337)"},
		{"--from proxy --to-self --dst 10.1.2.3:80 --src 127.0.0.6", "pass", "O2",
			"tcp 127.0.0.6:40000 -> 10.1.2.3:80, leaving by lo, from the proxy (UID 1337, GID 1337)"},
		{"--from outside --dst 10.1.2.3:80", "redirect(15006)", "I7", "tcp 192.0.2.1:40000 -> 10.1.2.3:80, arriving by eth0"},
		{"--from outside --dst 10.1.2.3:80 --src 10.9.9.9:1 --inbound-exclude-sources 10.9.0.0/16 --interface net1", "pass",
			"I5", "tcp 10.9.9.9:1 -> 10.1.2.3:80, arriving by net1"},
		{"--dst 10.0.0.10:53 --proto udp --dns all", "redirect(15053)", "O8",
			"udp 192.0.2.1:40000 -> 10.0.0.10:53, leaving by eth0, from the app (UID 1000, GID 1000)"},
		{"--dst 10.0.0.10 --proto icmp", "pass", "O14",
			"icmp 192.0.2.1 -> 10.0.0.10, leaving by eth0, from the app (UID 1000, GID 1000)"},
		{"--dst [fd00::1] --proto icmp", "pass", "O14",
			"ipv6-icmp 2001:db8::1 -> fd00::1, leaving by eth0, from the app (UID 1000, GID 1000)"},
		{"--dst 0.0.0.0:9099", "pass", "O6",
			"tcp 127.0.0.1:40000 -> 127.0.0.1:9099, leaving by lo, from the app (UID 1000, GID 1000)"},
		{"--dst [::]:53 --proto udp --dns all", "redirect(15053)", "O8",
			"udp [::1]:40000 -> [::1]:53, leaving by lo, from the app (UID 1000, GID 1000)"},
		{"--dst 224.0.0.1:80 --proto udp", "pass", "O14",
			"udp 192.0.2.1:40000 -> 224.0.0.1:80, leaving by eth0, from the app (UID 1000, GID 1000)"},
		{"--from outside --dst 255.255.255.255:80", "pass", "I9",
			"tcp 192.0.2.1:40000 -> 255.255.255.255:80, arriving by eth0"},
		{"--from outside --dst [::]:80", "pass", "I9", "tcp [2001:db8::1]:40000 -> [::]:80, arriving by eth0"},
		{"--dst 10.1.2.3:443 --state established", "pass", "O14",
			"tcp 192.0.2.1:40000 -> 10.1.2.3:443 (established), leaving by eth0, from the app (UID 1000, GID 1000)"},
	} {
		r := invoke(t, "", nil, append([]string{"explain", "-o", "json"}, strings.Fields(tc.args)...)...)
		if r.code != cli.ExitDone {
			t.Errorf("%s: exit code %d, %s", tc.args, r.code, r.stderr)
			continue
		}
		var e struct {
			Fate, Line string
			Packet     explain.Packet
			Steps      []explain.Step
		}
		if err := json.Unmarshal([]byte(r.out), &e); err != nil {
			t.Errorf("%s: %v", tc.args, err)
			continue
		}
		if e.Fate != tc.fate || e.Line != tc.line || e.Packet.String() != tc.packet || len(e.Steps) == 0 {
			t.Errorf("%s:\n got %s, %s, %s, %d steps\nwant %s, %s, %s", tc.args, e.Fate, e.Line, e.Packet, len(e.Steps), tc.fate,
				tc.line, tc.packet)
		}
	}
}

func TestExplainRefuses(t *testing.T) {
	for args, want := range map[string]string{
		"--dst x":              `--dst: "x" is not an address and a port`,
		"--dst 10.0.0.1:80:90": `--dst: "10.0.0.1:80:90" is not an address and a port`,
		"--dst 2001:db8::1:443": `--dst: "2001:db8::1:443" is an IPv6 address as a whole, and rules for tcp look at a port; ` +
			`write [2001:db8::1]:443, or [2001:db8::1:443]:443`,
		"--dst fd00::1 --proto udp": `--dst: "fd00::1" has no port, and rules for udp look at ` +
			`it; write [fd00::1]:443`,
		"--dst 10.0.0.1:0":           `--dst: "10.0.0.1:0" has no port`,
		"--dst 10.0.0.1:99999":       `--dst: "10.0.0.1:99999" is not`,
		"--dst [::ffff:10.0.0.1]:80": `IPv4 written as IPv6; write 10.0.0.1:80`,
		"--dst [fe80::1%eth0]:80":    `has a zone; leave it off`,
		"--dst 10.0.0.1:80 --proto icmp": `--dst: "10.0.0.1:80" has a port, and icmp has none; write ` +
			`10.0.0.1`,
		"--dst 10.0.0.1:80 --proto sctp":     `--proto: "sctp" is not one of tcp, udp, icmp`,
		"--dst 10.0.0.1:80 --src 10.0.0.2:x": `--src: "10.0.0.2:x"`,
		"--dst 10.0.0.1:80 --uid root":       `--uid: "root" is not a user`,
		"--dst 10.0.0.1:80 --gid 1,2":        `--gid: "1,2" is not one ID`,
		"--dst 10.0.0.1:80 --proxy-uid 1000": `--uid: the default, 1000, is the proxy's here; give the app's`,
		"--dst 10.0.0.1:80 --from proxy --uid 1": `--uid: 1: the proxy's is configured (--proxy-uid); leave ` +
			`it out`,
		"--dst 10.0.0.1:80 --to-self --interface eth0":      `--interface: "eth0": what goes to the pod itself leaves by lo`,
		"--dst 10.0.0.1:80 --proto udp --state established": `--state: established: only a TCP packet`,
		"--dst 224.0.0.1:80":                                `--dst: 224.0.0.1 stands for many hosts, and TCP connects to one`,
		"--dst 255.255.255.255:80":                          `--dst: 255.255.255.255 stands for many hosts`,
		"--dst [ff02::1]:80 --from proxy":                   `--dst: ff02::1 stands for many hosts`,
		"--dst 10.0.0.1:80 --interface abcdefghijklmnop":    `--interface: interface "abcdefghijklmnop" has 16 bytes`,
		"--dst 10.0.0.1:80 --interface eth0@if3":            `--interface: "eth0@if3" is how ip(8) lists an interface; its`,
		"--dst 10.0.0.1:80 --interface eth*":                `--interface: "eth*" stands for several; name one`,
	} {
		r := invoke(t, "", nil, append([]string{"explain"}, strings.Fields(args)...)...)
		if r.code != cli.ExitUsage || !strings.Contains(r.stderr, want) || len(r.lines()) != 1 {
			t.Errorf("%s: exit code %d, standard error %q; want %q", args, r.code, r.stderr, want)
		}
	}
}

func TestShorten(t *testing.T) {
	long := strings.TrimSuffix(strings.Repeat("10.0.0.1,", 5000), ",")
	got := explain.Shorten("not destination " + long)
	if len(got) > 130 || !strings.Contains(got, "more)") {
		t.Errorf("%q", got)
	}
	if got := explain.Shorten("not UID 5"); got != "not UID 5" {
		t.Errorf("%q", got)
	}
}

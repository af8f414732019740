package flowline

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// text is a flow in our own form.
func (f Flow) text() string {
	all := []string{f.Protocol, f.Src.String(), "->", f.Dst.String()}
	for _, s := range f.Settings {
		all = append(all, s.Name+"="+s.Value)
	}
	if f.Way != "" {
		all = append(all, string(f.Way))
	}
	if f.Interface != "" {
		all = append(all, "by", f.Interface)
	}
	return strings.Join(all, " ")
}

func TestParse(t *testing.T) {
	for line, want := range map[string]string{
		"tcp 10.244.0.5:40000 -> 10.1.2.3:443":                  "tcp 10.244.0.5:40000 -> 10.1.2.3:443",
		"  udp [fd00::5]:40000 -> [fd00::1]:53 uid=5 from=app ": "udp [fd00::5]:40000 -> [fd00::1]:53 uid=5 from=app",
		"icmp 10.0.0.1 -> 10.0.0.2":                             "icmp 10.0.0.1:0 -> 10.0.0.2:0",
		"tcp 10.244.0.5 -> 10.1.2.3:443":                        "tcp 10.244.0.5:0 -> 10.1.2.3:443",

		// tcpdump -n, and -i any
		"12:34:56.789012 IP 10.0.0.1.40000 > 10.1.2.3.443: Flags [S], seq 1, win 64240, options [mss 1460], length 0"://
		"tcp 10.0.0.1:40000 -> 10.1.2.3:443",
		"12:34:56.789012 eth0  Out IP 10.0.0.1.40000 > 10.1.2.3.443: Flags [S], seq 1, length 0"://
		"tcp 10.0.0.1:40000 -> 10.1.2.3:443 out by eth0",
		"12:34:56.789012 eth0  In  IP 10.1.2.3.443 > 10.0.0.1.40000: Flags [S.], seq 1, ack 2, length 0"://
		"tcp 10.0.0.1:40000 -> 10.1.2.3:443 out by eth0",
		"12:34:56.7 02:00:00:00:00:05 > 02:00:00:00:00:06, ethertype IPv4 (0x0800), length 74: 10.0.0.1.40000 > 10.1.2.3.443: " + //
			"Flags [S], seq 1, length 0": "tcp 10.0.0.1:40000 -> 10.1.2.3:443",
		"    10.0.0.1.40000 > 10.1.2.3.443: Flags [S], cksum 0x1a2b (correct), seq 1, length 0"://
		"tcp 10.0.0.1:40000 -> 10.1.2.3:443",
		"12:34:56.789012 IP6 fd00::1.40000 > fd00::2.443: Flags [S], seq 1, length 0"://
		"tcp [fd00::1]:40000 -> [fd00::2]:443",
		"IP 10.0.0.1.8080 > 10.1.2.3.50000: Flags [.], ack 1, length 0":           "tcp 10.1.2.3:50000 -> 10.0.0.1:8080",
		"IP 10.0.0.1.8080 > 10.1.2.3.9090: Flags [P.], seq 1:5, length 4":         "tcp 10.0.0.1:8080 -> 10.1.2.3:9090",
		"12:34:56.7 IP 10.0.0.1.40000 > 10.0.0.10.53: 1234+ A? example.com. (29)": "udp 10.0.0.1:40000 -> 10.0.0.10:53",
		"12:34:56.7 IP 10.0.0.10.53 > 10.0.0.1.40000: 1234 1/0/0 A 1.2.3.4 (45)":  "udp 10.0.0.1:40000 -> 10.0.0.10:53",
		"IP 10.0.0.10.53 > 10.0.0.1.1234: 5 1/0/0 A 1.2.3.4 (45)":                 "udp 10.0.0.1:1234 -> 10.0.0.10:53",
		"IP 10.0.0.10.443 > 10.0.0.1.20000: Flags [P.], seq 1:5, length 4":        "tcp 10.0.0.1:20000 -> 10.0.0.10:443",
		"IP 10.0.0.1.800 > 10.0.0.10.2049: Flags [P.], seq 1:5, length 4":         "tcp 10.0.0.1:800 -> 10.0.0.10:2049",
		"IP 10.0.0.1.53 > 10.0.0.10.53: 5+ A? example.com. (29)":                  "udp 10.0.0.1:53 -> 10.0.0.10:53",
		"IP 10.0.0.1.40000 > 10.0.0.10.9: UDP, length 5":                          "udp 10.0.0.1:40000 -> 10.0.0.10:9",
		"IP 10.0.0.1 > 10.0.0.2: ICMP echo request, id 1, seq 1, length 64":       "icmp 10.0.0.1:0 -> 10.0.0.2:0",
		"IP 10.0.0.2 > 10.0.0.1: ICMP echo reply, id 1, seq 1, length 64":         "icmp 10.0.0.1:0 -> 10.0.0.2:0",
		"IP6 fd00::1 > fd00::2: ICMP6, echo request, id 1, seq 1, length 64":      "icmp [fd00::1]:0 -> [fd00::2]:0",

		// conntrack -L, with -o extended, and of IPv6
		"tcp      6 431999 ESTABLISHED src=10.0.0.1 dst=10.1.2.3 sport=40000 dport=443 src=127.0.0.1 dst=10.0.0.1 " +
			"sport=15001 dport=40000 [ASSURED] mark=0 use=1": "tcp 10.0.0.1:40000 -> 10.1.2.3:443",
		"ipv6     10 udp      17 29 src=fd00::1 dst=fd00::2 sport=5 dport=53 [UNREPLIED] src=fd00::2 dst=fd00::1 " +
			"sport=53 dport=5 mark=0 use=1": "udp [fd00::1]:5 -> [fd00::2]:53",
		"icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=1 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=1"://
		"icmp 10.0.0.1:0 -> 10.0.0.2:0",

		// hubble observe, and -o json
		"Jun  1 12:00:00.000: 10.0.0.1:40000 (ID:5) -> 10.1.2.3:443 (world) to-stack FORWARDED (TCP Flags: SYN)"://
		"tcp 10.0.0.1:40000 -> 10.1.2.3:443",
		"Jun  1 12:00:00.000: 10.0.0.1:40000 (ID:5) <- 10.1.2.3:443 (world) to-endpoint FORWARDED (TCP Flags: SYN, ACK)"://
		"tcp 10.0.0.1:40000 -> 10.1.2.3:443",
		"Jun  1 12:00:00.000: [fd00::1]:40000 (ID:5) -> [fd00::2]:53 (ID:6) to-endpoint FORWARDED (UDP)"://
		"udp [fd00::1]:40000 -> [fd00::2]:53",
		`{"flow":{"IP":{"source":"10.0.0.1","destination":"10.1.2.3","ipVersion":"IPv4"},"l4":{"TCP":{"source_port":40000,` +
			`"destination_port":443,"flags":{"SYN":true}}},"is_reply":false},"time":"x"}`: "tcp 10.0.0.1:40000 -> 10.1.2.3:443",
		`{"IP":{"source":"fd00::2","destination":"fd00::1"},"l4":{"UDP":{"source_port":53,"destination_port":40000}},` +
			`"is_reply":true}`: "udp [fd00::1]:40000 -> [fd00::2]:53",

		// pwru --output-tuple
		"0xffff9a52c1 0 curl:1234 4026531992 0 eth0:3 0x0800 1500 60 10.0.0.1:44396->1.1.1.1:80(tcp) ip_output"://
		"tcp 10.0.0.1:44396 -> 1.1.1.1:80",
		"0xffff9a52c1 0 curl:1234 [fd00::1]:44396->[fd00::2]:80(tcp) ip6_output": "tcp [fd00::1]:44396 -> [fd00::2]:80",
	} {
		f, err := Parse(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if diff := cmp.Diff(want, f.text()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"x":                                  "no flow is known by its form",
		"tcp 10.0.0.1:1 -> 10.0.0.2":         "10.0.0.2 has no port",
		"10.0.0.1:1 -> 10.0.0.2:80":          "its protocol is not said",
		"tcp 10.0.0.1:1 -> [fd00::1]:80":     "of different families",
		"tcp 10.0.0.1:1 -> 10.0.0.2:80 fast": `"fast" after a flow; write NAME=VALUE there`,
		"tcp 10.0.0.1:1 -> 10.0.0.2:80000":   `"80000" is not a number of a port`,
		"IP 10.0.0.1.40000 > 10.1.2.3.https: Flags [S], seq 1":                     `"https" is not a number of a port (tcpdump -n)`,
		"Jun  1 12:00:00.000: default/a:40000 (ID:5) -> default/b:80 (ID:6) x (y)": `"default/a:40000" is a name`,
		"IP > 10.0.0.1.5: x":            `"IP" is a name`,
		"> 10.0.0.1.5":                  "no flow is known by its form",
		"{":                             "not the JSON of a flow",
		`{"flow":{}}`:                   "no addresses in the JSON",
		"tcp src=10.0.0.1 dst=10.0.0.2": "10.0.0.2 has no port",
		"tcp src= dst=":                 `"" is a name`,
		strings.Repeat("x", MaxLine+1):  "over 16384 bytes",
	} {
		if f, err := Parse(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, %v; want %q", line, f, err, want)
		}
	}
	for _, line := range []string{"", "  ", "# a comment"} {
		if _, err := Parse(line); !errors.Is(err, ErrNoFlow) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// TestParseAside: what tcpdump and conntrack write among flows, and is of none, is told from what cannot be read.
func TestParseAside(t *testing.T) {
	for line, want := range map[string]What{
		"12:34:56.789012 ARP, Request who-has 10.0.0.1 tell 10.0.0.2, length 28":            ARP,
		"2026-11-29 12:34:56.789012 ARP, Reply 10.0.0.1 is-at 02:00:00:00:00:05, length 28": ARP,
		"ARP, Request who-has 10.0.0.1 tell 10.0.0.2, length 28":                            ARP,
		"12:34:56.789012 eth0  B   ARP, Request who-has 10.0.0.1 tell 10.0.0.2, length 28":  ARP,
		"12:34:56.789012 eth0  Out ARP, Request who-has 10.0.0.1 tell 10.0.0.2, length 28":  ARP,
		"12:34:56.7 02:00:00:00:00:05 > ff:ff:ff:ff:ff:ff, ethertype ARP (0x0806), length 42: " + //
			"Request who-has 10.0.0.1 tell 10.0.0.2, length 28": ARP,
		"12:34:56.789012 STP 802.1d, Config, Flags [none], bridge-id 8000.02:00:00:00:00:05.8001, length 35":      NotIP,
		"12:34:56.789012 eth0  M   LLDP, length 60":                                                               NotIP,
		"12:34:56.7 02:00:00:00:00:05 > 01:80:c2:00:00:0e, ethertype LLDP (0x88cc), length 60: LLDP, length 46":   NotIP,
		"12:34:56.7 IP6 fe80::5 > ff02::2: ICMP6, router solicitation, length 16":                                 NotEcho,
		"12:34:56.7 IP6 fd00::5 > ff02::1:ff00:1: ICMP6, neighbor solicitation, who has fd00::1, length 32":       NotEcho,
		"12:34:56.7 IP 10.0.0.1 > 10.0.0.5: ICMP 10.0.0.1 udp port 53 unreachable, length 60":                     NotEcho,
		"12:34:56.7 IP 10.0.0.5 > 224.0.0.22: igmp v3 report, 1 group record(s)":                                  Many,
		"12:34:56.7 IP 10.0.0.5.5353 > 224.0.0.251.5353: 0 PTR (QM)? _x._tcp.local. (35)":                         Many,
		"12:34:56.7 IP 0.0.0.0.68 > 255.255.255.255.67: BOOTP/DHCP, Request, length 300":                          Many,
		"12:34:56.7 IP 10.0.0.5 > 10.0.0.6: GREv0, length 88: IP 1.1.1.1 > 2.2.2.2: ICMP echo request, length 64": Others,
		"unknown  47 500 src=10.0.0.5 dst=10.0.0.6 src=10.0.0.6 dst=10.0.0.5 use=1":                               Others,
		"udp 17 9 src=10.0.0.5 dst=224.0.0.251 sport=5353 dport=5353 [UNREPLIED] src=224.0.0.251 dst=10.0.0.5":    Many,
		"tcpdump: verbose output suppressed, use -v[v]... for full protocol decode":                               Message,
		"reading from file /tmp/a -> b.pcap, link-type EN10MB (Ethernet), snapshot length 262144":                 Message,
		"reading from file x.pcap, link-type LINUX_SLL2 (Linux cooked v2)":                                        Message,
		"listening on any, link-type LINUX_SLL2 (Linux cooked v2), snapshot length 262144 bytes":                  Message,
		"7 packets captured":          Message,
		"0 packets dropped by kernel": Message,
		"1 packet received by filter": Message,
		"conntrack v1.4.7 (conntrack-tools): 2 flow entries have been shown.": Message,
	} {
		_, err := Parse(line)
		if aside, is := errors.AsType[*AsideError](err); !is || aside.What != want {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
	// The first of two lines of a packet, with -v, says nothing of its flow.
	for _, line := range []string{
		"12:34:56.789012 IP (tos 0x0, ttl 64, id 1, offset 0, flags [DF], proto TCP (6), length 60)",
		"12:34:56.789012 eth0  Out IP6 (flowlabel 0x12345, hlim 64, next-header TCP (6) payload length: 40) ",
	} {
		if _, err := Parse(line); !errors.Is(err, ErrNoFlow) {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// FuzzParse: whatever is written, a flow has a protocol and two addresses of one family, and our own form of it is read
// as the same flow.
func FuzzParse(f *testing.F) {
	for _, line := range []string{
		"tcp 10.244.0.5:40000 -> 10.1.2.3:443 uid=5", "udp [fd00::5]:40000 -> [fd00::1]:53",
		"12:34:56.7 eth0 Out IP 10.0.0.1.40000 > 10.1.2.3.443: Flags [S], seq 1", "IP6 fd00::1.4 > fd00::2.443: UDP, length 5",
		"tcp 6 431999 ESTABLISHED src=10.0.0.1 dst=10.1.2.3 sport=40000 dport=443", "10.0.0.1:44396->1.1.1.1:80(tcp)",
		"12:34:56.7 IP 10.0.0.1.0 > 10.1.2.3.40000: Flags [S.], seq 1, ack 2", // an answer from no port
		"10.0.0.1:40000 (ID:5) <- 10.1.2.3:443 (world) to-endpoint FORWARDED (TCP Flags: SYN, ACK)",
		`{"IP":{"source":"fd00::2","destination":"fd00::1"},"l4":{"UDP":{"source_port":53,"destination_port":40000}}}`,
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		flow, err := Parse(line)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if flow.Protocol == "" || !flow.Src.IsValid() || flow.Src.Addr().Is4() != flow.Dst.Addr().Is4() {
			t.Fatalf("%+v", flow)
		}
		own := Flow{Protocol: flow.Protocol, Src: flow.Src, Dst: flow.Dst}
		again, err := Parse(own.text())
		if err != nil || again.text() != own.text() {
			t.Errorf("%s: %s (%v)", own.text(), again.text(), err)
		}
	})
}

package answer

import "github.com/mesh-intercept/intercept/internal/explain"

func scenarios(Request) (any, error) { return Scenarios{Cases()}, nil }

// Cases are the scenarios, the one first that people ask about first.
func Cases() []Scenario {
	with := func(pairs ...string) map[string]string {
		fields := map[string]string{}
		for i := 0; i+1 < len(pairs); i += 2 {
			fields[pairs[i]] = pairs[i+1]
		}
		return fields
	}
	outside := func(dst string) explain.Question {
		return explain.Question{From: explain.FromOutside, Src: "10.244.2.9", Dst: dst}
	}
	return []Scenario{
		{"probe", "A probe of the proxy's own port", "kubelet asks the sidecar at 15021 whether it is ready: a port of the " +
			"proxy's own is never captured, or the proxy would be asked through itself.",
			with(), explain.Question{From: explain.FromOutside, Src: "10.244.2.1", Dst: "10.244.1.7:15021"}, "pass", "I6"},
		{"app-probe", "A probe of the app", "kubelet asks the app at 8080: that is a connection like any client's, and goes to " +
			"the proxy.",
			with(), explain.Question{From: explain.FromOutside, Src: "10.244.2.1", Dst: "10.244.1.7:8080"}, "redirect(15006)", "I7"},
		{"service", "The app calls a service", "Every TCP destination is included, so the call goes to the proxy, which learns " +
			"where it was to go.",
			with(), explain.Question{Dst: "10.96.7.7:443"}, "redirect(15001)", "O12"},
		{"client", "A client calls the app", "What arrives for the app goes to the proxy first.",
			with(), outside("10.244.1.7:8080"), "redirect(15006)", "I7"},
		{"proxy-out", "The proxy calls the service", "What the proxy itself sends is let go: otherwise its call would come back " +
			"to it for ever.",
			with(), explain.Question{From: explain.FromProxy, Dst: "10.244.3.4:8443"}, "pass", "O4.uid"},
		{"proxy-self", "The proxy calls its own pod", "A service turned out to be this very pod: the call comes in as inbound, " +
			"as that of any client.",
			with(), explain.Question{From: explain.FromProxy, Dst: "10.244.1.7:8080", ToSelf: true}, "redirect(15006)", "O3.uid"},
		{"self", "The app calls itself", "From the app to the pod's own address: it stays in the pod, and is let go.",
			with(), explain.Question{Dst: "10.244.1.7:8080", ToSelf: true}, "pass", "O6"},
		{"localhost", "The app calls localhost", "127.0.0.1 is never captured by default.",
			with(), explain.Question{Dst: "127.0.0.1:9000"}, "pass", "O6"},
		{"passthrough", "The proxy hands a call to the app", "The proxy binds 127.0.0.6 for that, so that its own call is not " +
			"captured again.",
			with(), explain.Question{From: explain.FromProxy, Src: "127.0.0.6", Dst: "10.244.1.7:8080", ToSelf: true}, "pass", "O2"},
		{"dns-udp", "A name lookup over UDP", "With dns set to all, lookups go to the resolver in the sidecar, whichever server " +
			"they are meant for.",
			with("dns.mode", "all"), explain.Question{Dst: "10.96.0.10:53", Proto: explain.ProtoUDP}, "redirect(15053)", "O8.udp"},
		{"dns-tcp", "A name lookup over TCP", "Long answers come over TCP: these lookups are captured, too.",
			with("dns.mode", "all"), explain.Question{Dst: "10.96.0.10:53"}, "redirect(15053)", "O8.tcp"},
		{"dns-off", "A name lookup, with dns off", "By default names are looked up as if there were no proxy: it takes no UDP.",
			with(), explain.Question{Dst: "10.96.0.10:53", Proto: explain.ProtoUDP}, "pass", "O14"},
		{"quic", "QUIC, let go", "HTTP/3 is UDP to port 443, which the proxy does not take: by default it goes past the proxy.",
			with(), explain.Question{Dst: "203.0.113.10:443", Proto: explain.ProtoUDP}, "pass", "O14"},
		{"quic-reject", "QUIC, rejected", "With quic set to reject, clients are told at once, and fall back to TCP, which is " +
			"captured.",
			with("outbound.quic", "reject"), explain.Question{Dst: "203.0.113.10:443", Proto: explain.ProtoUDP}, "reject", "reject/O13.O12"},
		{"tunnel", "The tunnel between proxies arrives", "A connection to 15008 comes from another proxy, inside its own " +
			"encryption: it is let through to the proxy.",
			with(), outside("10.244.1.7:15008"), "pass", "I4"},
		{"wireguard", "A VPN in the pod", "WireGuard's datagrams to its peer are UDP, and pass. With udp set to reject its port has to " +
			"be excluded, as here.",
			with("outbound.udp", "reject", "outbound.exclude", "udp :51820"),
			explain.Question{Dst: "198.51.100.7:51820", Proto: explain.ProtoUDP}, "pass", "O5.exclude.1"},
		{"ingress", "A client calls an ingress gateway", "With inbound mode off clients come straight in; what the gateway sends " +
			"on is captured.",
			with("inbound.mode", "off"), outside("10.244.1.7:443"), "pass", ""},
		{"ingress-out", "The ingress gateway calls a service", "The same gateway, on its way to the pods behind it.",
			with("inbound.mode", "off"), explain.Question{Dst: "10.244.3.4:8080", UID: "101", GID: "101"}, "redirect(15001)", "O12"},
		{"excluded-port", "An excluded port", "A database whose protocol the proxy should not see: its port is excluded.",
			with("outbound.excludePorts", "5432"), explain.Question{Dst: "10.96.7.8:5432"}, "pass", "O5.ports"},
		{"excluded-cidr", "An excluded network", "Whatever is included, what goes to an excluded network is let go.",
			with("outbound.excludeCIDRs", "169.254.169.254"), explain.Question{Dst: "169.254.169.254:80"}, "pass", "O10.cidrs"},
		{"excluded-user", "An excluded user", "A backup agent in the pod runs as user 2000, and is left alone.",
			with("outbound.excludeUIDs", "2000"), explain.Question{Dst: "203.0.113.20:443", UID: "2000"}, "pass", "O7.excluded-uid"},
		{"ipv6", "A call over IPv6", "Both families are captured: the other one would be a way past the proxy.",
			with(), explain.Question{Dst: "[2001:db8:7::7]:443"}, "redirect(15001)", "O12"},
		{"ipv6-left-out", "IPv6, left out", "With IPv4 alone, IPv6 goes past the proxy unless it is rejected, as here.",
			with("families", "ipv4", "otherFamily", "reject"), explain.Question{Dst: "[2001:db8:7::7]:443"}, "reject", "reject/O12"},
		{"established", "A connection older than the rules", "It has begun before there were rules, and goes on: to redirect it " +
			"now would reset it.",
			with(), explain.Question{Dst: "10.96.7.7:443", State: explain.StateEstablished}, "pass", "O14"},
		{"ping", "A ping", "The proxy takes TCP: an echo request passes.",
			with(), explain.Question{Dst: "10.96.7.7", Proto: explain.ProtoICMP}, "pass", "O14"},
		{"tproxy", "A client, in mode tproxy", "The proxy gets the connection with both addresses unchanged, and so sees the client.",
			with("inbound.mode", "tproxy"), outside("10.244.1.7:8080"), "tproxy(15006)", "I7.deliver"},
		{"neighbour", "A neighbour sends to 127.0.0.1", "A frame from outside for a loopback address is none of the proxy's: the " +
			"kernel discards it.",
			with(), outside("127.0.0.1:8080"), "pass", "I9.loopback"},
	}
}

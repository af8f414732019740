// Packets and configurations that are ready to ask about.

/**
 * Each packet as the library takes it, and what it is in the words of somebody who sends it. What there is to say about
 * its fate stands under the kind of fate that it is true of.
 */
export const packets = [
  {
    id: "probe",
    group: "To the pod",
    name: "Probe, port 15021",
    packet: { from: "outside", dst: "10.244.0.5:15021" },
    asked: "The kubelet asks port 15021 whether the pod is ready.",
    passed:
      "The question is for the proxy. At its port for inbound connections, it would be taken for a call of the app.",
    captured: "The question is for the proxy. At its port for inbound connections, it is taken for a call of the app.",
    page: { href: "../docs/probes.html", title: "Probes of a pod behind a proxy" },
  },
  {
    id: "ingress",
    group: "To the pod",
    name: "A client's call",
    packet: { from: "outside", dst: "10.244.0.5:8080" },
    asked: "Another pod calls the app, at port 8080.",
    captured: "The proxy takes the call first: it can check who calls, and then hands it to the app.",
    passed: "The app is called without the proxy.",
  },
  {
    id: "tunnel",
    group: "To the pod",
    name: "Tunnel, port 15008",
    packet: { from: "outside", dst: "10.244.0.5:15008" },
    asked: "Another pod's proxy opens a tunnel, to port 15008.",
    passed: "There is nothing to redirect.",
  },
  {
    id: "service",
    group: "From the app",
    name: "To a service",
    packet: { from: "app", dst: "10.96.0.20:443" },
    asked: "The app calls a service, at port 443.",
    captured: "The app notices nothing. The proxy is told where the connection was meant to go.",
  },
  {
    id: "self",
    group: "From the app",
    name: "To itself",
    packet: { from: "app", dst: "10.244.0.5:8080", toSelf: true },
    asked: "The app calls its own pod, by the pod's address.",
    passed: "The call never leaves the pod.",
  },
  {
    id: "localhost",
    group: "From the app",
    name: "To localhost",
    packet: { from: "app", dst: "127.0.0.1:8080" },
    asked: "The app calls 127.0.0.1, at port 8080.",
    passed: "The call never leaves the pod.",
  },
  {
    id: "dns-udp",
    group: "From the app",
    name: "DNS over UDP",
    packet: { from: "app", proto: "udp", dst: "10.96.0.10:53" },
    asked: "The app looks up a name, over UDP.",
    passed: "Lookups are captured where the configuration says so: start from “Name lookups captured”.",
    captured: "The resolver in the sidecar answers.",
  },
  {
    id: "dns-tcp",
    group: "From the app",
    name: "DNS over TCP",
    packet: { from: "app", proto: "tcp", dst: "10.96.0.10:53" },
    asked: "The app looks up a name, over TCP.",
  },
  {
    id: "quic",
    group: "From the app",
    name: "QUIC",
    packet: { from: "app", proto: "udp", dst: "203.0.113.10:443" },
    asked: "The app opens a QUIC connection: UDP, port 443.",
    passed:
      "The proxy takes TCP alone. Where QUIC is rejected, clients fall back to TCP at once: start from “Nothing but TCP”.",
    stopped: "The client is told at once, and falls back to TCP.",
  },
  {
    id: "ping",
    group: "From the app",
    name: "Ping",
    packet: { from: "app", proto: "icmp", dst: "203.0.113.10" },
    asked: "The app pings another host.",
    passed: "It is neither TCP nor UDP: the proxy could do nothing with it.",
  },
  {
    id: "user",
    group: "From the app",
    name: "By another user",
    packet: { from: "app", uid: "2000", gid: "2000", dst: "203.0.113.10:443" },
    asked: "A process of user 2000 calls another host.",
    captured: "Whoever is not the proxy is the app.",
  },
  {
    id: "ipv6",
    group: "From the app",
    name: "Over IPv6",
    packet: { from: "app", dst: "[2001:db8::10]:443" },
    asked: "The app calls a host by its IPv6 address.",
    captured: "Both families have the same rules, so that neither is a way past the proxy.",
  },
  {
    id: "proxy",
    group: "From the proxy",
    name: "To a service",
    packet: { from: "proxy", dst: "203.0.113.10:443" },
    asked: "The proxy opens its own connection to a service.",
    passed: "Otherwise it would come back to the proxy, and go round for ever. The kernel knows the proxy by its user.",
  },
  {
    id: "hairpin",
    group: "From the proxy",
    name: "To its own pod",
    packet: { from: "proxy", dst: "10.244.0.5:8080", toSelf: true },
    asked: "The proxy calls its own pod, by the pod's address.",
    captured:
      "The app has called a service that this very pod serves. For that call the pod is a server, so it comes in as a client's call does.",
  },
];

/** Configurations to start from, each as the fields that differ from the defaults. */
export const configurations = [
  { id: "defaults", name: "The defaults", fields: {} },
  { id: "dns", name: "Name lookups captured", fields: { "dns.mode": "all" } },
  {
    id: "strict",
    name: "Nothing but TCP",
    fields: { "outbound.udp": "reject", "outbound.otherProtocols": "reject", "dns.mode": "all" },
  },
  { id: "tproxy", name: "Inbound by TPROXY", fields: { "inbound.mode": "tproxy" } },
  { id: "gateway", name: "An ingress controller", fields: { "inbound.mode": "off" } },
  {
    id: "some",
    name: "Databases left alone",
    fields: { "outbound.excludePorts": "3306,5432,6379", "outbound.excludeCIDRs": "10.0.0.0/8" },
  },
  { id: "users", name: "One user captured", fields: { "outbound.includeUIDs": "1000" } },
  { id: "ipv4", name: "IPv4 only", fields: { families: "ipv4", otherFamily: "reject" } },
];

// Package netlab is a laboratory of real network namespaces in which traffic
// can be sent and its fate seen. Intercept's own tests and its demonstration
// use it; so can yours.
//
// A [Lab] is a pod and a peer, joined by a cable:
//
//	┌── Pod ──────────────────────────┐         ┌── Peer ─────────────────────┐
//	│ apps, made as flows need them   │  eth0   │ every address and every     │
//	│ sidecar, if started             ├─────────┤ port answers, TCP and UDP   │
//	│ 10.244.0.5/24, fd00:244::5/64   │         │ 10.244.0.1, fd00:244::1     │
//	│                                 │  net1   │                             │
//	│ 10.245.0.5/24, fd00:245::5/64   ├─ ─ ─ ─ ─┤ 10.245.0.1, fd00:245::1     │
//	└────────────────┬ br-vm ─────────┘         └─────────────────────────────┘
//	                 ╎ 10.246.0.1/24, fd00:246::1/64
//	                 ╎
//	┌── VM ──────────┴ eth0 ──────────┐
//	│ 10.246.0.5, fd00:246::5         │
//	└─────────────────────────────────┘
//
// As in many clusters the pod has no neighbours: all it sends goes to its
// gateway, the peer. The second cable, net1, is there if
// [Options].SecondInterface asks for it. The pod then reaches 10.245.0.0/24,
// fd00:245::/64, 198.51.100.0/24 and 2001:db8:1::/48 by it.
//
// The VM is there if [Options].VM asks for it, and stands for a machine or a
// nested container inside the pod. Its cable ends in the pod's bridge br-vm,
// and the pod is its router; the peer answers it by way of the pod's eth0.
//
// [Lab.StartSidecar] runs a proxy's listening side in the pod: it redirects
// nothing, but says which connections came to it, or passes them on to the app
// if [SidecarConfig].Forward asks for it. [Lab.Send] then sends a [Flow], from
// the pod under any user, group and mark, from the peer or from the VM, and
// returns its [Delivery]: its fate in the words of
// [github.com/mesh-intercept/intercept.Fate], and who answered. [Flow.Packet]
// is the packet for which [github.com/mesh-intercept/intercept.Ruleset.Trace]
// should foretell that fate, and [Delivery.Is] compares the two.
//
//	lab := netlab.NewT(t, netlab.Options{})
//	lab.StartSidecar(netlab.SidecarConfig{})
//	// … put rules into lab.Pod, by its FD or its Path …
//	got, err := lab.Send(netlab.Flow{
//		Protocol: intercept.TCP,
//		Dst:      netip.MustParseAddrPort("203.0.113.7:80"),
//		Owner:    &intercept.Owner{UID: 1000, GID: 1000},
//	})
//	// got.Fate is redirect(15001), got.Original is 203.0.113.7:80
//
// What no client would send, [Lab.Inject] and [Lab.InjectFrame] do: segments of
// no connection, and frames that are for somebody else. [Namespace.AddEntry] and
// [Namespace.FlushEntries] change what connection tracking believes, and a
// [Watch] sees what the interfaces of a namespace send.
//
// # What servers say
//
// All servers of a lab speak alike, and the client speaks first. Over TCP it
// sends a line; the server answers with a [Banner] as one line of JSON and from
// then on echoes what it gets. Over UDP every datagram is answered with the
// Banner. A DNS query is answered as DNS instead, on any port: over TCP it is
// told by its first byte, the high one of the length, being 0. Every name has
// the addresses 192.0.2.53 and 2001:db8::53, and a TXT record with the Banner.
//
// # What it needs and what it leaves behind
//
// Labs need Linux with IPv4 and IPv6, nftables' tproxy (CONFIG_NFT_TPROXY) and
// root, or the capabilities NET_ADMIN, SYS_ADMIN, SETUID and SETGID. They work
// in parallel, dozens in one process.
//
// The namespaces have no name and are held by file descriptors alone; the
// cables are made inside them. So nothing is ever seen in the host's namespace,
// and however the process ends, panic and kill -9 included, the kernel takes
// all of it away.
package netlab

// Package node is a Kubernetes node for tests: containerd with runc, and
// whatever else a test starts there, in network, mount and PID namespaces of
// their own. However a test ends, nothing of it is left.
//
// A node's disk is a directory. What a reboot forgets, /run and /var/lib, is on
// tmpfs. /etc and /opt look like the machine's and are written to the disk. The
// host's sysctls, interfaces and files are never changed.
//
//	┌── node: a network, a mount and a PID namespace ────────────────────┐
//	│ containerd, shims                 lo: 203.0.113.7, 10.96.0.10, …   │
//	│                                   "outside" listens there          │
//	│ cni0, 10.88.0.1/16                                                 │
//	│  ├── pod 10.88.0.2 (a network namespace of its own)                │
//	│  └── pod 10.88.0.3                                                 │
//	└────────────────────────────────────────────────────────────────────┘
package node

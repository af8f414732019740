// Package facts reads what a bug report needs to know of a network namespace and of the process that looks: over
// netlink and from /proc, without a program, and without privilege as far as the kernel answers.
//
// Call its functions on a thread that is locked to the namespace.
package facts

// Interface is a network interface with its addresses.
type Interface struct {
	Name string `json:"name"`
	// Kind is what it is made by, as ip-link(8) names it: veth, bridge. That of a physical one is device.
	Kind  string `json:"kind"`
	Index int    `json:"index"`
	// Master is the bridge or the like that it belongs to.
	Master    string   `json:"master,omitempty"`
	MTU       int      `json:"mtu"`
	Up        bool     `json:"up"`
	State     string   `json:"state"`
	Addresses []string `json:"addresses"`
}

// Route is a route of one family, of any table.
type Route struct {
	Family string `json:"family"`
	// Destination is a prefix. The default route is 0.0.0.0/0 or ::/0.
	Destination string `json:"destination"`
	Gateway     string `json:"gateway,omitempty"`
	// Device is the interface's name. A route by several ways has none here.
	Device   string `json:"device,omitempty"`
	Source   string `json:"source,omitempty"`
	Table    uint32 `json:"table"`
	Type     string `json:"type"`
	Metric   uint32 `json:"metric,omitempty"`
	Protocol uint8  `json:"protocol"`
	Several  bool   `json:"several,omitempty"`
}

// Rule is a rule of ip-rule(8), in the order in which the kernel asks them.
type Rule struct {
	Family   string `json:"family"`
	Priority uint32 `json:"priority"`
	Not      bool   `json:"not,omitempty"`
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
	// Mark is as in 0x1/0xff.
	Mark  string `json:"mark,omitempty"`
	In    string `json:"in,omitempty"`
	Out   string `json:"out,omitempty"`
	Users string `json:"users,omitempty"`
	// Table is where it leads. Zero: to none.
	Table  uint32 `json:"table,omitempty"`
	Action string `json:"action"`
	// Others is how many other conditions it has.
	Others int `json:"others,omitempty"`
}

// Listener is a socket that waits for anybody: a listening one of TCP, or one of UDP that is not connected.
type Listener struct {
	Protocol string `json:"protocol"`
	Address  string `json:"address"`
	UID      uint32 `json:"uid"`
	// PID and Process say who has it. They are not there where /proc does not show it.
	PID     int    `json:"pid,omitempty"`
	Process string `json:"process,omitempty"`
}

// Conntrack is what the namespace's connection tracking holds.
type Conntrack struct {
	// Count is how many connections there are, of at most Max: beyond it, new ones are dropped.
	Count uint64 `json:"count"`
	Max   uint64 `json:"max"`
	// States counts them: those of TCP by their states, others by their protocols. StatesError says why it is not known.
	States      map[string]int `json:"states,omitempty"`
	StatesError string         `json:"statesError,omitempty"`
	// Drop and EarlyDrop count what was dropped since the kernel could not keep it, and what was forgotten early to make
	// room; InsertFailed what lost a race to be kept.
	Drop         uint64 `json:"drop"`
	EarlyDrop    uint64 `json:"earlyDrop"`
	InsertFailed uint64 `json:"insertFailed"`
}

// Process is who looks, and what it may do, as proc_pid_status(5) has it.
type Process struct {
	// Status has the lines of /proc/self/status about users, capabilities and seccomp.
	Status map[string]string `json:"status"`
	// Cgroup has the lines of /proc/self/cgroup.
	Cgroup []string `json:"cgroup"`
	// Label is what a security module calls the process. Empty: none does.
	Label string `json:"label,omitempty"`
	// UIDMap and GIDMap are those of its user namespace.
	UIDMap []string `json:"uidMap"`
	GIDMap []string `json:"gidMap"`
	// Architecture is GOARCH.
	Architecture string `json:"architecture"`
	// Namespaces are those that it is in, as in "net": "net:[4026531840]".
	Namespaces map[string]string `json:"namespaces"`
}

// Sysctls are the names of settings of the namespace that decide about intercepted traffic.
func sysctlNames() []string {
	return []string{
		"net/ipv4/ip_forward", "net/ipv4/ip_local_port_range", "net/ipv4/ip_nonlocal_bind", "net/ipv4/tcp_syncookies",
		"net/ipv4/ip_unprivileged_port_start", "net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect",
		"net/ipv4/conf/all/rp_filter", "net/ipv4/conf/default/rp_filter", "net/ipv4/conf/lo/rp_filter",
		"net/ipv4/conf/all/route_localnet", "net/ipv4/conf/default/route_localnet", "net/ipv4/conf/lo/route_localnet",
		"net/ipv4/conf/all/src_valid_mark", "net/ipv4/conf/all/accept_local",
		"net/ipv6/bindv6only", "net/ipv6/conf/all/disable_ipv6", "net/ipv6/conf/default/disable_ipv6",
		"net/ipv6/conf/lo/disable_ipv6", "net/ipv6/conf/all/forwarding",
		"net/netfilter/nf_conntrack_acct", "net/netfilter/nf_conntrack_buckets", "net/netfilter/nf_conntrack_max",
		"net/netfilter/nf_conntrack_tcp_be_liberal", "net/netfilter/nf_conntrack_tcp_loose",
		"net/netfilter/nf_conntrack_tcp_timeout_close_wait", "net/netfilter/nf_conntrack_tcp_timeout_established",
		"net/netfilter/nf_conntrack_udp_timeout", "net/netfilter/nf_conntrack_udp_timeout_stream",
		"net/core/somaxconn", "net/mptcp/enabled", "kernel/io_uring_disabled",
		"user/max_user_namespaces", "kernel/unprivileged_userns_clone",
	}
}

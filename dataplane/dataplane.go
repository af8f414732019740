// Package dataplane applies configurations to network namespaces: it chooses a backend and says why, enters the
// namespace, and refuses the host's.
//
// [Open] enters a namespace once; the [Session] that it returns does everything there. A [Pod] has the same methods,
// for a single call.
//
// On other systems than Linux no session can be opened: the error is [ruleset.ErrNeedsLinux].
package dataplane

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/netns"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

var (
	// ErrHostNetNS refuses to program the host's own network namespace, or that of a Kubernetes node that is a container:
	// rules there would capture the traffic of the whole node.
	ErrHostNetNS = errors.New(
		"this is the host's own network namespace, whose rules are for the traffic of the whole node")
	// ErrNotNetNS reports a name by which there is no network namespace.
	ErrNotNetNS = netns.ErrNotNetNS
)

// Pod is a network namespace to act on, and how. The zero Pod is the namespace the process is in, with the backend that
// suits it.
//
// The errors of its methods, and of a Session's, are those of package ruleset ([ruleset.ErrPermission] and its
// siblings), [ErrHostNetNS], [ErrNotNetNS], those of the context, or others that say what failed; test with
// [errors.Is].
type Pod struct {
	// NetNS is a network namespace: its path, such as /run/netns/pod or /proc/123/ns/net; its name, as "ip netns" lists
	// them; pid:NUMBER, a process in it; container:ID or containerd://ID, a container in it. Empty: the one the process
	// is in.
	NetNS string
	// AllowHostNetNS permits acting on the host's own network namespace, or on that of a Kubernetes node that is a
	// container.
	AllowHostNetNS bool
	// HostIPs are the node's addresses, if they are known (status.hostIPs of the pod): a namespace that has one of them is
	// the node's. Without them a node that is a container is told by what else it has.
	HostIPs []netip.Addr
	// IsPod is whether the caller knows the namespace for a pod's, as a CNI plugin does: then only the one that the system
	// booted with is refused, and nothing that is in the namespace makes it look like a node's.
	IsPod bool
	// Unfinished is whether others are at work on the namespace's network at the same time, as containerd's loopback
	// plugin is while CNI plugins run: that lo is not ready is no warning then.
	Unfinished bool
	// Backend is how. Empty means BackendAuto.
	Backend Backend
	// IPTables says how the iptables backends write. Others ignore it.
	IPTables IPTables
	// SetSysctls permits Apply to set the namespace's sysctls that the configuration needs. Otherwise it fails and
	// names them.
	SetSysctls bool
	// CloseWait has Apply set the sysctl nf_conntrack_tcp_timeout_close_wait of the namespace: for how long, in whole
	// seconds, conntrack remembers a TCP connection that one side has closed. Zero leaves it. Remove does not put it back.
	CloseWait time.Duration
	// StandIn has Verify listen in place of a proxy that is not up yet, and fail if somebody listens there.
	StandIn bool
	// LeaksSaid is whether the caller has said already that a family is left out, and what that leaves outside: Apply then
	// does not.
	LeaksSaid bool
	// TakeOver has Apply take out the rules of other meshes, once its own are in force: no connection goes past the
	// proxy in between. What bears no name of theirs stays.
	TakeOver bool
	// InPlaceOf is the name of the mesh for whose program the caller stands (beside.MeshOf). Its rules are taken over as
	// with TakeOver if they are such as its programs write for the proxy of the configuration. Empty: for none.
	InPlaceOf string
	// By is who applies, as in "mesh-init v1.2.3", and Origins says where values of the configuration came from, by the
	// fields' paths, as in "outbound.port": "--outbound-port". Apply keeps both beside the rules, for [Session.InForce].
	By      string
	Origins map[string]string
	// LockedBy, unless nil, is told who holds the lock of the namespace, as in "process 4711 (mesh-init)", once a change has
	// waited a second for it.
	LockedBy func(holder string) `json:"-"`
	// BesideOtherMesh permits Apply where rules of another mesh are in force. Otherwise the error is [ErrOtherMesh].
	BesideOtherMesh bool
}

// Target is what Pod was called.
//
// Deprecated: use Pod.
type Target = Pod

// IPTables says how the iptables backends write.
type IPTables struct {
	// Dialect is how much of xtables the rules use. Empty: what the kernel has room for, so iptables.Minimal where
	// iptables-legacy has no comments, as in gVisor, and else iptables.Standard.
	Dialect iptables.Dialect
	// Jumps is where in the built-in chains the jumps to ours stand. Empty: iptables.JumpsFirst, before the rules that are
	// there.
	Jumps iptables.Jumps
	// Wait is how long to wait for the lock of another program. Zero: iptables.DefaultWait.
	Wait time.Duration
}

// Result says what Apply did.
type Result struct {
	Choice
	Outcome ruleset.Outcome `json:"outcome"`
	// Rules is how many rules of the policy are in force; a backend writes some of them as several.
	Rules int `json:"rules"`
	// TakenOver says which rules of other meshes were taken out, a line for each part.
	TakenOver []string `json:"takenOver,omitempty"`
	// Warnings are things that work but may surprise.
	Warnings []string `json:"warnings,omitempty"`
	// Foreign are the chains of others at the same hooks.
	Foreign Foreign `json:"foreign,omitzero"`
}

// Status is what of ours is in force in a namespace.
type Status struct {
	// Backends are those that have rules of ours there: one, unless an apply was killed while it changed to another.
	Backends []Backend `json:"backends"`
	// Counters are what the rules have counted, in the order packets meet them.
	Counters []ruleset.Counter `json:"counters"`
	// Uncounted is true where the kernel counts nothing (gVisor), and all numbers are zero.
	Uncounted bool `json:"uncounted,omitempty"`
	// Others are others' rules in the same chains of iptables.
	Others Others `json:"others"`
	// Foreign are the chains of others at the same hooks.
	Foreign Foreign `json:"foreign,omitzero"`
	// Dormant are the tables that hold rules of ours and sleep, as nft names them: nothing in them is in force.
	Dormant []string `json:"dormant,omitempty"`
}

// Apply is [Session.Apply] in a session of its own.
func (p Pod) Apply(ctx context.Context, c intercept.Config) (Result, error) {
	return once(ctx, p, func(s *Session) (Result, error) { return s.Apply(ctx, c) })
}

// Check is [Session.Check] in a session of its own.
func (p Pod) Check(ctx context.Context, c intercept.Config) ([]ruleset.Difference, error) {
	return once(ctx, p, func(s *Session) ([]ruleset.Difference, error) { return s.Check(ctx, c) })
}

// Remove is [Session.Remove] in a session of its own.
func (p Pod) Remove(ctx context.Context) (removed bool, err error) {
	return once(ctx, p, func(s *Session) (bool, error) { return s.Remove(ctx) })
}

// Status is [Session.Status] in a session of its own.
func (p Pod) Status(ctx context.Context) (Status, error) {
	return once(ctx, p, func(s *Session) (Status, error) { return s.Status(ctx) })
}

// Verify is [Session.Verify] in a session of its own.
func (p Pod) Verify(ctx context.Context, c intercept.Config) (verify.Report, error) {
	return once(ctx, p, func(s *Session) (verify.Report, error) { return s.Verify(ctx, c) })
}

// Addresses is [Session.Addresses] in a session of its own. Like Probe it is allowed in the host's network namespace.
func (p Pod) Addresses(ctx context.Context) ([]netip.Addr, error) {
	p.AllowHostNetNS = true
	return once(ctx, p, func(s *Session) ([]netip.Addr, error) { return s.Addresses(ctx) })
}

// Arrive is [Session.Arrive] in a session of its own.
func (p Pod) Arrive(ctx context.Context, listen, to netip.AddrPort) error {
	p.AllowHostNetNS = true
	_, err := once(ctx, p, func(s *Session) (struct{}, error) { return struct{}{}, s.Arrive(ctx, listen, to) })
	return err
}

// Foreign is [Session.Foreign] in a session of its own. Like Probe it is allowed in the host's network namespace.
func (p Pod) Foreign(ctx context.Context) (Foreign, error) {
	p.AllowHostNetNS = true
	return once(ctx, p, func(s *Session) (Foreign, error) { return s.Foreign(ctx) })
}

// RemoveForeign is [Session.RemoveForeign] in a session of its own.
func (p Pod) RemoveForeign(ctx context.Context, m beside.Mesh, dryRun bool) (Removal, error) {
	return once(ctx, p, func(s *Session) (Removal, error) { return s.RemoveForeign(ctx, m, dryRun) })
}

// Do is [Session.Do] in a session of its own. Like Probe it is allowed in the host's network namespace.
func (p Pod) Do(ctx context.Context, fn func() error) error {
	p.AllowHostNetNS = true
	_, err := once(ctx, p, func(s *Session) (struct{}, error) { return struct{}{}, s.Do(ctx, fn) })
	return err
}

// Probe is [Session.Probe] in a session of its own. It is allowed in the host's network namespace: it writes nothing.
func (p Pod) Probe(ctx context.Context, c intercept.Config) (Report, error) {
	p.AllowHostNetNS = true
	return once(ctx, p, func(s *Session) (Report, error) { return s.Probe(ctx, c) })
}

func once[R any](ctx context.Context, p Pod, fn func(*Session) (R, error)) (result R, err error) {
	s, err := Open(ctx, p)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return fn(s)
}

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/markroute"
	"github.com/mesh-intercept/intercept/internal/procfile"
	"github.com/mesh-intercept/intercept/internal/sockets"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/trial"
	"github.com/mesh-intercept/intercept/ruleset"
)

// trouble is what the rules do not say about themselves, and what keeps traffic from the proxy all the same.
type trouble struct {
	// addrs are the namespace's.
	addrs []netip.Addr
	// partial are parts of the traffic that do not come to the proxy.
	partial []string
	// shared says who passes as the proxy. Empty: nobody is seen.
	shared string
	// unserved says of ports of the proxy that nobody listens there.
	unserved []string
	// cutOff are ways in which the namespace reaches nobody: what an app sends does not come as far as the rules.
	cutOff []string
	// full says that connection tracking has no room. Empty: it has.
	full string
}

// trouble looks for it. What cannot be seen is in unread.
func (s *space) trouble(p Pod, c intercept.Config, ports []Port) (t trouble, unread []string) {
	all, err := s.interfaces()
	if err != nil {
		unread = append(unread, "the interfaces: "+strict.InLine(err))
	} else {
		for _, w := range p.networkWarnings(c, all) {
			t.partial = append(t.partial, w.inForce())
		}
	}
	for _, l := range all {
		t.addrs = append(t.addrs, l.Addrs...)
	}
	t.cutOff = cutOff(c, all)
	t.unserved = unserved(c, ports, all)
	t.shared = passingAsProxy(c.Proxy, ports)
	used, most, err := tracked()
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission): // gVisor, or a user namespace's
	case err != nil:
		unread = append(unread, "how full connection tracking is: "+strict.InLine(err))
	default:
		t.full = fullness(used, most)
	}
	return t, unread
}

// cutOff says that nothing leaves the namespace, or of which family.
func cutOff(c intercept.Config, all []links.Link) (says []string) {
	up, down := false, false
	for _, l := range all {
		if l.Name != ruleset.Loopback {
			up, down = up || l.Up, down || !l.Up
		}
	}
	if down && !up {
		return []string{"no interface but lo is up: nothing leaves the namespace, and nothing arrives"}
	}
	for _, to := range []string{"192.0.2.1", "2001:db8::1"} { // RFC 5737, RFC 3849
		example := netip.MustParseAddr(to)
		if f := ruleset.FamilyOf(example); globalAddr(all, f, c.PassthroughSources).IsValid() && !trial.HasRoute(example) {
			says = append(says, "no route of "+f.String()+" leads to others, as to "+to+": the kernel refuses what an app sends "+
				"there before the rules see it")
		}
	}
	return says
}

// unserved says at which ports of the proxy nobody listens, altogether or in a family that the namespace has and rules
// capture. Whether who listens is the proxy is for Verify to find out: a listening socket can be of a process that gives
// others of another user its connections.
func unserved(c intercept.Config, ports []Port, all []links.Link) (causes []string) {
	for _, p := range ports {
		at := fmt.Sprintf("%s port %s", strings.ToUpper(p.Protocol.String()), p.Port)
		if !slices.ContainsFunc(p.Listeners, func(l Listener) bool { return !l.Unreached }) {
			remedy := "start the sidecar, or let it listen there"
			if len(p.Listeners) > 0 {
				remedy = fmt.Sprintf("none of it comes to %s: let the proxy listen at 0.0.0.0 and ::", p.Listeners[0].Where())
				if p.Listeners[0].Device != "" {
					remedy += ", by all interfaces"
				}
			}
			causes = append(causes, fmt.Sprintf("nobody listens at %s, where rules send %s; %s", at, p.what(), remedy))
			continue
		}
		for _, f := range families(c) {
			if !globalAddr(all, f, c.PassthroughSources).IsValid() ||
				slices.ContainsFunc(p.Listeners, func(l Listener) bool { return l.hears(f) }) {
				continue
			}
			there := "0.0.0.0"
			if f == ruleset.IPv6 {
				there = "::"
			}
			causes = append(causes, fmt.Sprintf("nobody listens at %s over %s, where rules send %s; let the proxy listen "+
				"at %s as well", at, f, p.what(), there))
		}
	}
	return causes
}

// nearlyFull is how much of the table of connection tracking is in use when new connections are about to fail, in percent.
const nearlyFull = 95

// fullness says that connection tracking has no room, or hardly any.
func fullness(used, most uint64) string {
	if most == 0 || used*100 < most*nearlyFull { // 0: there is no limit
		return ""
	}
	full := "full"
	if used < most {
		full = "nearly full"
	}
	return fmt.Sprintf("connection tracking is %s (%d of %d entries): when it is, new connections fail; raise "+
		"net.netfilter.nf_conntrack_max on the node, and see with conntrack -L whose entries they are", full, used, most)
}

// tracked returns how many entries connection tracking has in the namespace, and how many it may have: the limit is the
// node's, and holds for each namespace by itself.
func tracked() (used, most uint64, err error) {
	for name, to := range map[string]*uint64{"count": &used, "max": &most} {
		text, err := procfile.Read("/proc/sys/net/netfilter/nf_conntrack_" + name)
		if err == nil {
			*to, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return used, most, nil
}

// sandbox is how Kubernetes' runtimes call the process that holds a pod's namespaces. It may run as the user of the pod's
// security context, and sends nothing.
const sandbox = "pause"

// passingAsProxy says which process runs as the proxy's user or group, in another container than who listens at the
// proxy's ports. Processes of the proxy's own container are the proxy's business.
func passingAsProxy(proxy intercept.Proxy, ports []Port) string {
	var known []int
	for _, p := range ports {
		for _, l := range p.Listeners {
			if l.PID > 0 {
				known = append(known, l.PID)
			}
		}
	}
	if len(known) == 0 {
		return ""
	}
	found := sockets.Beside(known, func(p sockets.Process) bool {
		return p.Name != sandbox && (proxy.UIDs.Contains(p.UID) || proxy.GIDs.Contains(p.GID))
	})
	if found.PID == 0 {
		return ""
	}
	by, whom := "by O4.uid", fmt.Sprintf("user %d", found.UID)
	if !proxy.UIDs.Contains(found.UID) {
		by, whom = "by O4.gid", fmt.Sprintf("group %d", found.GID)
	}
	return fmt.Sprintf("%s (process %d) runs as the proxy's %s, but not in its container (its mount namespace): what it sends "+
		"passes as the proxy's, %s; give the proxy a user and a group of its own", found.Name, found.PID, whom, by)
}

// unintercepted adds to [ruleset.ErrNotIntercepted] whose namespace this seems to be: what else is in it.
func (s *Session) unintercepted(ctx context.Context, err error) error {
	_ = s.do(ctx, func() error { // it is no more than a help
		if m := otherMesh(s.space.foreign(BackendNFT)); m != nil {
			err = fmt.Errorf("%w; %w", err, m)
		}
		if all, failed := links.List(); failed == nil {
			err = fmt.Errorf("%w; %s", err, whose(all))
		}
		if routing, failed := s.space.routing(); failed == nil && !s.space.gvisor {
			if left, failed := routing.Check(markroute.Want{}); failed == nil && len(left) > 0 {
				err = fmt.Errorf("%w; %d routes and addresses of ours are left, as of an apply that was interrupted, the first %s: "+
					"mesh-init remove takes them out", err, len(left), left[0].What)
			}
		}
		return nil
	})
	return err
}

// whose says by which addresses a namespace is to be known.
func whose(all []links.Link) string {
	var found []string
	for _, f := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		if a := globalAddr(all, f, intercept.Default().PassthroughSources); a != (netip.Addr{}) {
			found = append(found, a.String())
		}
	}
	if len(found) == 0 {
		return "no interface of it but lo has an address, as in no pod that is ready"
	}
	if len(found) > 1 {
		return "its addresses are " + strings.Join(found, " and ")
	}
	return "its address is " + found[0]
}

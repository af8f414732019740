package dataplane

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/links"
	"github.com/mesh-intercept/intercept/internal/procfile"
	"github.com/mesh-intercept/intercept/internal/sockets"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// refuseHost returns ErrHostNetNS in the namespace that the system booted with, and in that of a Kubernetes node that
// is a container itself (kind, k3d, minikube).
func (s *space) refuseHost(p Pod) error {
	host, err := isHost()
	switch {
	case err != nil:
		return err
	case host:
		return ErrHostNetNS
	case p.IsPod:
		return nil
	}
	if evidence := s.nodeEvidence(p.HostIPs); len(evidence) > 0 {
		return fmt.Errorf("%w: it is that of a Kubernetes node, which has %s", ErrHostNetNS, strings.Join(evidence, ", and "))
	}
	return nil
}

// isHost goes by what Linux shows in the namespace that the system booted with alone, net.core.dev_weight
// (net/core/sysctl_net_core.c). That sysctls are shown at all, somaxconn tells, and of a namespace that another user
// namespace owns, where older kernels (6.1) have no net.core, net.ipv4.
func isHost() (bool, error) {
	const cannot = "cannot tell whether this is the host's own network namespace: %w; mount /proc, all of it, or insist " +
		"with --allow-host-netns"
	if _, err := os.Stat("/proc/sys/net/core/somaxconn"); err != nil {
		if _, other := os.Stat("/proc/sys/net/ipv4/ip_forward"); errors.Is(err, fs.ErrNotExist) && other == nil {
			return false, nil
		}
		return false, fmt.Errorf(cannot, err)
	}
	_, err := os.Stat("/proc/sys/net/core/dev_weight")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf(cannot, err)
	}
	return err == nil, nil
}

// nodeEvidence says by what the namespace is known to be a node's, or nothing. An address of the node is enough. Of the
// other kinds it takes two: chains of kube-proxy or kubelet, who is at work, and pods behind. An ordinary pod may have
// one of them: metrics-server listens at a port of kubelet's, and rules can be left over. Whatever cannot be looked at
// is no evidence.
func (s *space) nodeEvidence(hostIPs []netip.Addr) []string {
	if at := nodeAddress(hostIPs); at != "" {
		return []string{at}
	}
	chains := s.kubeChains()
	if chains == "" && !hasSeveral() {
		return nil // as most pods, whose sockets and interfaces need not be listed
	}
	var all []string
	for _, found := range []string{chains, atWork(), podsBehind()} {
		if found != "" {
			all = append(all, found)
		}
	}
	if len(all) < 2 {
		return nil
	}
	return all
}

// hasSeveral reports whether the namespace has more interfaces than lo and one other.
func hasSeveral() bool {
	text, err := procfile.Read("/proc/thread-self/net/dev")
	const headings, loAndOne = 2, 2
	return err == nil && strings.Count(string(text), "\n") > headings+loAndOne
}

// nodeAddress finds an address of the node's among the namespace's own.
func nodeAddress(hostIPs []netip.Addr) string {
	if len(hostIPs) == 0 {
		return ""
	}
	all, err := links.List()
	if err != nil {
		return ""
	}
	for _, l := range all {
		for _, addr := range l.Addrs {
			if slices.Contains(hostIPs, addr) {
				return fmt.Sprintf("the node's address %s (interface %s)", addr, l.Name)
			}
		}
	}
	return ""
}

// kubePrefix is how kube-proxy and kubelet name their chains, and kubeTable is kube-proxy's table of nf_tables.
const kubePrefix, kubeTable = "KUBE-", "kube-proxy"

// kubeChains finds chains of kube-proxy or kubelet, in nf_tables or in legacy tables.
func (s *space) kubeChains() string {
	chains, err := s.foreignChains()
	if err == nil {
		for _, c := range chains {
			switch {
			case strings.HasPrefix(c.Name, kubePrefix):
				return fmt.Sprintf("chains of kube-proxy or kubelet (%s)", c.Name)
			case c.Table == kubeTable:
				return "kube-proxy's table of nf_tables"
			}
		}
	}
	for _, f := range []ruleset.Family{ruleset.IPv4, ruleset.IPv6} {
		if has, err := iptables.LegacyHas(f, kubePrefix); err == nil && has {
			return fmt.Sprintf("chains of kube-proxy or kubelet (%s…, by iptables-legacy)", kubePrefix)
		}
	}
	return ""
}

// atWork finds sockets of what makes a node one: kubelet, kube-proxy, a container runtime with CRI. Docker is none of
// them, nor the containerd that it starts.
func atWork() string {
	// The kernel shows the path that a socket was bound to, whoever can reach it, with the sockets of the namespace.
	if text, err := procfile.Read("/proc/thread-self/net/unix"); err == nil {
		for line := range strings.Lines(string(text)) {
			_, socket, _ := strings.Cut(strings.TrimSpace(line), " /")
			socket = "/" + socket
			switch {
			case strings.HasPrefix(socket, "/var/lib/kubelet/") && path.Base(socket) == "kubelet.sock",
				path.Base(socket) == "crio.sock", path.Base(socket) == "cri-dockerd.sock",
				path.Base(socket) == "containerd.sock" && !strings.Contains(socket, "docker"):
				return "the socket " + socket
			}
		}
	}
	ports := map[uint16]string{10248: "kubelet's", 10250: "kubelet's", 10255: "kubelet's", 10249: "kube-proxy's",
		10256: "kube-proxy's"}
	listening, err := sockets.List(ruleset.TCP)
	if err != nil {
		return ""
	}
	for _, l := range listening {
		if whose := ports[l.Local.Port()]; whose != "" {
			return fmt.Sprintf("a listener at %s port %d", whose, l.Local.Port())
		}
	}
	return ""
}

// isOfNodes tells interfaces that Kubernetes' networks make on nodes alone.
func isOfNodes(name string) bool {
	return slices.Contains([]string{"kube-ipvs0", "kube-bridge", "kube-dummy-if", "nodelocaldns", "cilium_host",
		"antrea-gw0",
		"ovn-k8s-mp0", "flannel.1", "vxlan.calico"}, name)
}

// isOfEngines tells bridges of what runs containers and virtual machines inside a pod: Docker, Podman, nerdctl, LXD,
// libvirt, KubeVirt.
func isOfEngines(name string) bool {
	for _, glob := range []string{"docker*", "br-*", "podman*", "cni-podman*", "nerdctl*", "lxdbr*", "lxcbr*", "incusbr*",
		"virbr*", "k6t-*"} {
		if is, err := path.Match(glob, name); err == nil && is {
			return true
		}
	}
	return false
}

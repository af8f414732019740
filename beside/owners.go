package beside

import (
	"slices"
	"strings"
)

// owner is somebody whose tables and chains are known by their names.
type owner struct {
	name string
	mesh string // the Name of the mesh that it is, or ""
	// tables, chains and comments are how their names begin.
	tables, chains, comments []string
	// nameless is true of one whose rules in built-in chains are not all known so.
	nameless bool
}

// owners is the one table of those who are known. Sources: the rules that their programs write.
func owners() []owner {
	return []owner{
		{"Istio", "istio", []string{"istio-proxy-", "istio-ambient-"}, []string{"ISTIO_"}, nil, true},
		{"Linkerd", "linkerd", nil, []string{"PROXY_INIT_"}, []string{"proxy-init/"}, false},
		{"Kuma", "kuma", nil, []string{"KUMA_"}, []string{"kuma/mesh/transparent/proxy"}, false},
		{"Consul", "consul", []string{"consul"}, []string{"CONSUL_"}, nil, false},
		{"Open Service Mesh", "osm", nil, []string{"OSM_PROXY_"}, nil, false},
		{"AWS App Mesh", "app-mesh", nil, []string{"APPMESH_"}, nil, false},
		{"Antrea", "", []string{"antrea"}, []string{"ANTREA-"}, nil, false},
		{"AWS VPC CNI", "", nil, []string{"AWS-"}, nil, false},
		{"Calico", "", []string{"calico"}, []string{"cali-", "felix-"}, nil, false},
		{"Cilium", "", []string{"cilium"}, []string{"CILIUM_", "OLD_CILIUM_"}, []string{"cilium"}, false},
		{"CNI portmap", "", []string{"cni_hostport"}, []string{"CNI-"}, nil, false},
		{"Docker", "", []string{"docker-"}, []string{"DOCKER"}, nil, false},
		{"firewalld", "", []string{"firewalld"},
			[]string{"PREROUTING_ZONES", "INPUT_ZONES", "FORWARD_ZONES", "PREROUTING_direct", "OUTPUT_direct"}, nil, false},
		{"Flannel", "", []string{"flannel-"}, []string{"FLANNEL-"}, nil, false},
		{"kube-proxy", "", []string{"kube-proxy"}, []string{"KUBE-"}, []string{"kubernetes "}, false},
		{"libvirt", "", []string{"libvirt_network"}, []string{"LIBVIRT_"}, nil, false},
		{"NetBird", "", []string{"netbird"}, []string{"NETBIRD-", "netbird-"}, nil, false},
		{"Podman", "", []string{"netavark"}, []string{"NETAVARK"}, nil, false},
		{"systemd", "", []string{"io.systemd.nat"}, nil, nil, false},
		{"Tailscale", "", nil, []string{"ts-"}, nil, false},
		{"ufw", "", nil, []string{"ufw-", "ufw6-"}, nil, false},
		{"Weave Net", "", nil, []string{"WEAVE"}, nil, false},
	}
}

// name is what somebody has given a name: one of these.
type name struct{ table, chain, comment string }

func (n name) isOf(o owner) bool {
	return beginsWith(n.table, o.tables) || beginsWith(n.chain, o.chains) || beginsWith(n.comment, o.comments)
}

func beginsWith(name string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// ownersOf returns those who give such names.
func ownersOf(n name) (all []owner) {
	if n == (name{}) {
		return nil
	}
	for _, o := range owners() {
		if n.isOf(o) {
			all = append(all, o)
		}
	}
	return all
}

// Mesh is a service mesh that captures a pod's connections as we do. Two of them in one namespace take each other's.
type Mesh struct {
	// Name is what commands call it; Title is its name.
	Name, Title string
	owner       owner
}

// Meshes returns those that are known.
func meshes() (all []Mesh) {
	for _, o := range owners() {
		if o.mesh != "" {
			all = append(all, Mesh{o.mesh, o.name, o})
		}
	}
	return all
}

// MeshNames returns the names of those that are known.
func MeshNames() (names []string) {
	for _, m := range meshes() {
		names = append(names, m.Name)
	}
	return names
}

// MeshOf returns the mesh of a name.
func MeshOf(name string) (Mesh, bool) {
	for _, m := range meshes() {
		if m.Name == name {
			return m, true
		}
	}
	return Mesh{}, false
}

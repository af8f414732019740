package beside

import "strings"

// owner is somebody whose tables and chains are known by their names.
type owner struct {
	name string
	mesh string // the Name of the mesh that it is, or ""
	// tables and chains are how names begin.
	tables, chains []string
}

// owners is the one table of those who are known. Sources: the rules that their programs write.
func owners() []owner {
	return []owner{
		{"Istio", "istio", []string{"istio-proxy-", "istio-ambient-"}, []string{"ISTIO_"}},
		{"Linkerd", "linkerd", nil, []string{"PROXY_INIT_"}},
		{"Kuma", "kuma", nil, []string{"KUMA_"}},
		{"Consul", "consul", []string{"consul"}, []string{"CONSUL_"}},
		{"Open Service Mesh", "osm", nil, []string{"OSM_PROXY_"}},
		{"AWS App Mesh", "app-mesh", nil, []string{"APPMESH_"}},
		{"Antrea", "", []string{"antrea"}, []string{"ANTREA-"}},
		{"AWS VPC CNI", "", nil, []string{"AWS-"}},
		{"Calico", "", []string{"calico"}, []string{"cali-", "felix-"}},
		{"Cilium", "", []string{"cilium"}, []string{"CILIUM_", "OLD_CILIUM_"}},
		{"CNI portmap", "", []string{"cni_hostport"}, []string{"CNI-"}},
		{"Docker", "", []string{"docker-"}, []string{"DOCKER"}},
		{"firewalld", "", []string{"firewalld"}, []string{"PREROUTING_ZONES", "INPUT_ZONES", "FORWARD_ZONES", "OUTPUT_direct"}},
		{"Flannel", "", []string{"flannel-"}, []string{"FLANNEL-"}},
		{"kube-proxy", "", []string{"kube-proxy"}, []string{"KUBE-"}},
		{"libvirt", "", []string{"libvirt_network"}, []string{"LIBVIRT_"}},
		{"NetBird", "", []string{"netbird"}, []string{"NETBIRD-", "netbird-"}},
		{"Podman", "", []string{"netavark"}, []string{"NETAVARK"}},
		{"systemd", "", []string{"io.systemd.nat"}, nil},
		{"Tailscale", "", nil, []string{"ts-"}},
		{"ufw", "", nil, []string{"ufw-", "ufw6-"}},
		{"Weave Net", "", nil, []string{"WEAVE"}},
	}
}

func beginsWith(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// ownersOf returns those who give a table, or a chain, this name.
func ownersOf(table, chain string) (all []owner) {
	for _, o := range owners() {
		if table != "" && beginsWith(table, o.tables) || chain != "" && beginsWith(chain, o.chains) {
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

// HasTable and HasChain report whether a table, or a chain of any table, of this name is the mesh's.
func (m Mesh) HasTable(name string) bool { return beginsWith(name, m.owner.tables) }

// HasChain is HasTable for the name of a chain.
func (m Mesh) HasChain(name string) bool { return beginsWith(name, m.owner.chains) }

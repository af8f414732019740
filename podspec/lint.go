package podspec

import (
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
)

// Pod is what of a pod's spec decides who may pass as its proxy, or past it. The
// zero Pod is one without containers.
type Pod struct {
	// HostNetwork and ShareProcessNamespace are the spec's fields of these names.
	HostNetwork, ShareProcessNamespace bool
	// Containers are those that run beside each other: init containers that are
	// restarted always, and the others but ephemeral ones.
	Containers []Container
}

// Container is one container's security, as it comes to be: with what the pod's
// securityContext says where its own says nothing.
type Container struct {
	Name string
	// RunAsUser and RunAsGroup are nil where the image decides.
	RunAsUser, RunAsGroup *int64
	// RunAsNonRoot, AllowPrivilegeEscalation and Privileged are nil where nothing
	// is said: they are false, true and false.
	RunAsNonRoot, AllowPrivilegeEscalation, Privileged *bool
	// Add and Drop are capabilities, as in securityContext.capabilities.
	Add, Drop []string
}

// Warning is something about a pod that lets a container pass as the proxy or past
// it.
type Warning struct {
	// ID is a word for it, which never changes.
	ID string
	// Containers are those that it is about. None: the pod.
	Containers []string
	// Text says what is possible, and Remedy what to write instead.
	Text, Remedy string
}

// String returns the warning in a sentence.
func (w Warning) String() string {
	of := ""
	if len(w.Containers) > 0 {
		of = strings.Join(w.Containers, ", ") + ": "
	}
	return of + w.Text + "; " + w.Remedy
}

// hazard is one row of the table of warnings.
type hazard struct {
	id, text, remedy string
	// ofPod is whether the warning is about the pod, or ofContainer whether it is
	// about one of its containers that are not the proxy.
	ofPod       func(Pod) bool
	ofContainer func(Pod, Container) bool
}

// hazards is the one table of warnings.
func hazards() []hazard {
	return []hazard{
		{
			id:     "host-network",
			text:   "the pod shares the node's network, where nothing is intercepted",
			remedy: "leave out hostNetwork",
			ofPod:  func(p Pod) bool { return p.HostNetwork },
		},
		{ // of which Lint knows
			id:     "proxy-identity",
			text:   "more than one container runs as the proxy's user or group, and nothing that they send is captured",
			remedy: "give apps another runAsUser and runAsGroup",
		},
		{
			id: "privileged",
			text: "it can change or leave the pod's rules (privileged, or NET_ADMIN, SYS_ADMIN, SYS_MODULE, or SYS_PTRACE " +
				"in a shared process namespace)",
			remedy: "drop ALL capabilities, and leave out privileged",
			ofContainer: func(p Pod, c Container) bool {
				return is(c.Privileged, false) || c.has("NET_ADMIN") || c.has("SYS_ADMIN") || c.has("SYS_MODULE") ||
					p.ShareProcessNamespace && c.has("SYS_PTRACE")
			},
		},
		{
			id: "set-id-programs",
			text: "a setuid or setgid program can run as the proxy: one in the image, or one that root makes, or who has the " +
				"proxy's group (fsGroup)",
			remedy:      "set allowPrivilegeEscalation: false",
			ofContainer: func(_ Pod, c Container) bool { return c.escalates() },
		},
		{
			id: "set-id-capabilities",
			text: "as root with SETUID or SETGID, which containers have by default, it can become the proxy's user or " +
				"group",
			remedy: "drop these capabilities (or ALL), or set runAsNonRoot: true",
			ofContainer: func(_ Pod, c Container) bool {
				return c.isRoot() && (c.has("SETUID") || c.has("SETGID"))
			},
		},
		{
			id: "raw-sockets",
			text: "with NET_RAW, which Kubernetes gives by default, it can send packets that no rule sees, and since Linux " +
				"5.17 set the proxy's mark",
			remedy: "drop NET_RAW (or ALL)",
			ofContainer: func(_ Pod, c Container) bool {
				return c.has("NET_RAW") && (c.isRoot() || c.escalates())
			},
		},
	}
}

// Hazards describes the warnings that there are: ID, text and remedy.
func Hazards() []Warning {
	var all []Warning
	for _, h := range hazards() {
		all = append(all, Warning{ID: h.id, Text: h.text, Remedy: h.remedy})
	}
	return all
}

// Lint says what about a pod lets its containers pass as the proxy of c, or past
// it. The one container that runs as the proxy is taken for it, and may do more
// than others. What a container's image says is not known here.
func Lint(c intercept.Config, p Pod) []Warning {
	var proxies, apps []Container
	for _, k := range p.Containers {
		if k.runsAs(c.Proxy) {
			proxies = append(proxies, k)
		} else {
			apps = append(apps, k)
		}
	}
	var warn []Warning
	for _, h := range hazards() {
		w := Warning{ID: h.id, Text: h.text, Remedy: h.remedy}
		switch {
		case h.ofPod != nil:
			if h.ofPod(p) {
				warn = append(warn, w)
			}
			continue
		case h.ofContainer == nil: // several are the proxy
			if len(proxies) > 1 {
				w.Containers = namesOf(proxies)
			}
		default:
			w.Containers = namesOf(slices.DeleteFunc(slices.Clone(apps), func(k Container) bool { return !h.ofContainer(p, k) }))
		}
		if len(w.Containers) > 0 {
			warn = append(warn, w)
		}
	}
	return warn
}

func namesOf(all []Container) []string {
	list := make([]string, len(all))
	for i, k := range all {
		list[i] = k.Name
	}
	return list
}

// is returns a switch, or what holds if it is not set.
func is(b *bool, otherwise bool) bool {
	if b == nil {
		return otherwise
	}
	return *b
}

// runsAs reports whether the container is known to run as the proxy.
func (c Container) runsAs(proxy intercept.Proxy) bool {
	among := func(id *int64, ids intercept.IDs) bool {
		return id != nil && *id >= 0 && *id <= intercept.MaxID && ids.Contains(uint32(*id))
	}
	return among(c.RunAsUser, proxy.UIDs) || among(c.RunAsGroup, proxy.GIDs)
}

// isRoot reports whether the container may run as root.
func (c Container) isRoot() bool {
	if c.RunAsUser != nil {
		return *c.RunAsUser == 0
	}
	return !is(c.RunAsNonRoot, false)
}

// escalates reports whether a program can have more rights than who starts it.
// Kubernetes takes a privileged container, or one with SYS_ADMIN, for one that may.
func (c Container) escalates() bool {
	return is(c.AllowPrivilegeEscalation, true) || is(c.Privileged, false) || c.has("SYS_ADMIN")
}

// defaults are the capabilities, of those asked about here, that containers have
// if nothing is said. CRI-O leaves out NET_RAW.
func defaults() []string { return []string{"NET_RAW", "SETGID", "SETUID"} }

// has reports whether the container has a capability, or had it as root. Runtimes
// add all, drop all, add those named, and drop those named, in this order.
func (c Container) has(capability string) bool {
	named := func(list []string, name string) bool {
		return slices.ContainsFunc(list, func(s string) bool {
			return strings.TrimPrefix(strings.ToUpper(s), "CAP_") == name
		})
	}
	switch {
	case is(c.Privileged, false):
		return true
	case named(c.Drop, capability):
		return false
	case named(c.Add, capability):
		return true
	case named(c.Drop, "ALL"):
		return false
	}
	return named(c.Add, "ALL") || slices.Contains(defaults(), capability)
}

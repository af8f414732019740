// Package peers is what reading the command lines of other meshes' programs has in common: each has a package of its
// own below, which says in this project's terms what such a line asks for. They read, and change nothing.
package peers

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// Programs are the paths at which the containers of other meshes' pods call their programs. The image has mesh-init
// there, so that a pod needs another image alone.
func Programs() []string {
	return []string{
		"/usr/bin/kumactl", "/usr/lib/linkerd/linkerd2-network-validator", "/usr/lib/linkerd/linkerd2-proxy-init",
		"/usr/local/bin/istio-iptables", "/usr/local/bin/pilot-agent",
	}
}

// Action is what a command line asks for.
type Action string

// The actions.
const (
	Apply  Action = "apply"
	Remove Action = "remove"
	// Render prints what Apply would put in force.
	Render Action = "render"
	// Help prints Request.Text.
	Help Action = "help"
	// Nothing was asked for that has to be done here.
	Nothing Action = "nothing"
)

// Request is what a peer's command line asks for.
type Request struct {
	Action Action
	Config intercept.Config
	// Pod says where and how: the namespace, the backend.
	Pod dataplane.Pod
	// DryRun has Remove say what it would take out.
	DryRun bool
	// Text is what Help prints.
	Text string
	// Warnings are said once each: what is accepted without an effect, and what is left outside the mesh as the peer
	// leaves it.
	Warnings []string
	// LogLevel and LogFormat are as in mesh-init's flags; "": the default.
	LogLevel, LogFormat string
	// Validation is asked for besides, after the Action; nil: it is not.
	Validation *Validation
	// Arrival is tried besides, after the Action; nil: nothing is.
	Arrival *Arrival
	// Lenient accepts what is refused otherwise because it leaves traffic outside that the peer's documentation says is
	// captured.
	Lenient bool
}

// Validation asks whether the rules work, as a peer's program does.
type Validation struct {
	// Timeout is for how long it is tried.
	Timeout time.Duration
	// Port is the one that is called.
	Port uint16
}

// Arrival is a connection that has to come to a port of the pod: then interception works.
type Arrival struct {
	// Listen is where it has to come, and To where it is opened to.
	Listen, To netip.AddrPort
	// Timeout is how long that may take.
	Timeout time.Duration
}

// mostWarnings is how many warnings are said. Command lines can be long.
const mostWarnings = 20

// Warn adds a warning, once. Of very many it adds that there are more.
func (r *Request) Warn(format string, args ...any) {
	w := fmt.Sprintf(format, args...)
	switch {
	case len(r.Warnings) > mostWarnings || slices.Contains(r.Warnings, w):
		return
	case len(r.Warnings) == mostWarnings:
		w = "and there is more to warn of"
	}
	r.Warnings = append(r.Warnings, w)
}

// World is what a command line is read in.
type World struct {
	// Environ is as from os.Environ.
	Environ []string
	// User is the one that the process runs as; 0: root, or it is not known.
	User uint32
	// ReadFile reads a file whole, as os.ReadFile; "-" is standard input.
	ReadFile func(name string) ([]byte, error)
	// Document reads YAML or JSON; of what says nothing, a Null. Nil: it reads JSON.
	Document func([]byte) (strict.Node, error)
	// Addresses are those of the pod's network namespace.
	Addresses func(dataplane.Pod) ([]netip.Addr, error)
	// AnyPod is true if nobody knows the pod, and Addresses are such as most have: nothing is said of them.
	AnyPod bool
	// HasPrograms reports whether the programs of a backend are there; nil: they are not.
	HasPrograms func(dataplane.Backend) bool
}

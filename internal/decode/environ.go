package decode

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// A Variable is one of an environment that sets a flag.
type Variable struct {
	Name string // MESH_DNS
	Flag string // dns
	Text string
}

// Flags are the names of flags, as an environment may have variables of them.
type Flags struct {
	// Names are those of the flags that have a variable.
	Names []string
	// Once are those of the flags that have none: they belong to one run.
	Once []string
}

// Environ reads the variables MESH_… of an environment ("KEY=VALUE"), in the
// order of their names. settled are the flags that are set elsewhere, and
// strongly, or that do not matter.
//
// A variable that is none of ours is passed over: a namespace may have a Service
// named mesh, and a container may share its variables with other programs. The
// note names those that were, or is empty. What is nearly the name of one of ours
// is an error.
func Environ(environ []string, flags func() Flags, settled func(flag string) bool) (
	given []Variable, note string, err error,
) {
	environ = slices.DeleteFunc(slices.Sorted(slices.Values(environ)), func(entry string) bool {
		return !strings.HasPrefix(entry, EnvPrefix) || strings.HasPrefix(entry, EnvPrefix+"TEST_")
	})
	if len(environ) == 0 {
		return nil, "", nil
	}
	known, byName, once := flags(), map[string]string{}, map[string]string{}
	var names []string
	for _, f := range known.Names {
		byName[EnvName(f)] = f
		names = append(names, EnvName(f))
	}
	for _, f := range known.Once {
		once[EnvName(f)] = f
	}
	spelling := strict.NewSpelling(names)
	var errs strict.Errors
	var strange []string
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		flag, isOurs := byName[name]
		switch {
		case isOurs && isServiceURL(value) && settled(flag):
			// Whose value it would be has another.
		case isOurs && isServiceURL(value):
			strange = append(strange, name+" (Kubernetes' address of a Service)")
		case isServiceLink(name, value):
			strange = append(strange, strict.OneLine(strict.Clip(name)))
		case isOurs:
			given = append(given, Variable{name, flag, value})
		case errs.Full():
			errs.Omit()
		case once[name] != "":
			errs.Add(fmt.Errorf("%s: unknown variable; --%s belongs to one run, so there is none for it", name, once[name]))
		default:
			if hint := spelling.Misspelt(name); hint != "" {
				errs.Add(fmt.Errorf("%s: unknown variable; %s", strict.Clip(name), hint))
				continue
			}
			strange = append(strange, strict.OneLine(strict.Clip(name)))
		}
	}
	return given, passedOver(strange), errs.Err()
}

// passedOver names variables that are none of ours, in one line.
func passedOver(names []string) string {
	if len(names) == 0 {
		return ""
	}
	text := "passed over, since it is no setting of ours: "
	if len(names) > 1 {
		text = "passed over, since they are no settings of ours: "
	}
	if most := 8; len(names) > most {
		return text + fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return text + strings.Join(names, ", ")
}

// Kubernetes sets variables for the Services of a pod's namespace, in the
// style of Docker's links. Those of a Service named mesh-… begin like ours:
// MESH_X_SERVICE_HOST, MESH_X_SERVICE_PORT, MESH_X_SERVICE_PORT_NAME,
// MESH_X_PORT, MESH_X_PORT_80_TCP, MESH_X_PORT_80_TCP_ADDR (_PORT, _PROTO).
// (k8s.io/kubernetes/pkg/kubelet/envvars)
func isServiceLink(name, value string) bool {
	switch {
	case strings.HasSuffix(name, "_SERVICE_HOST"), strings.HasSuffix(name, "_SERVICE_PORT"),
		strings.Contains(name, "_SERVICE_PORT_"):
		return true
	case strings.HasSuffix(name, "_PORT") && isServiceURL(value):
		return true
	}
	// …_PORT_<digits>_<protocol>, and what may follow.
	_, rest, found := strings.Cut(name, "_PORT_")
	port, proto, hasProto := strings.Cut(rest, "_")
	if !found || !hasProto || strings.Trim(port, "0123456789") != "" {
		return false
	}
	proto, _, _ = strings.Cut(proto, "_")
	return proto == "TCP" || proto == "UDP" || proto == "SCTP"
}

func isServiceURL(value string) bool {
	return strings.HasPrefix(value, "tcp://") || strings.HasPrefix(value, "udp://") || strings.HasPrefix(value, "sctp://")
}

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

// Environ reads the variables MESH_… of an environment ("KEY=VALUE"), in the
// order of their names. flags are the names of the flags that there are. settled
// are those that are set elsewhere, and strongly, or that do not matter: it is no
// mistake if their variable has the address of a Service.
func Environ(environ []string, flags func() []string, settled func(flag string) bool) ([]Variable, error) {
	environ = slices.DeleteFunc(slices.Sorted(slices.Values(environ)), func(entry string) bool {
		return !strings.HasPrefix(entry, EnvPrefix) || strings.HasPrefix(entry, EnvPrefix+"TEST_")
	})
	if len(environ) == 0 {
		return nil, nil
	}
	byName := map[string]string{}
	var names []string
	for _, f := range flags() {
		byName[EnvName(f)] = f
		names = append(names, EnvName(f))
	}
	var given []Variable
	var errs strict.Errors
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		flag, known := byName[name]
		switch link := isServiceLink(name, value); {
		case !known && link:
		case !known && errs.Full():
			errs.Omit()
		case !known:
			errs.Add(fmt.Errorf("%s: unknown variable; %s", strict.Clip(name),
				strict.Hint(name, names, "unset it; mesh-init --help lists the flags, whose names these are")))
		case link && settled(flag):
			// A flag is the way out that the error below names.
		case link:
			errs.Add(fmt.Errorf("%s: %q is Kubernetes' address of a Service named %s, not a value for us; "+
				"give --%s, or set enableServiceLinks: false in the pod's spec", name, strict.Clip(value), serviceOf(name), flag))
		default:
			given = append(given, Variable{name, flag, value})
		}
	}
	return given, errs.Err()
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

// serviceOf returns the Service whose address is in a variable …_PORT.
func serviceOf(name string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimSuffix(name, "_PORT"), "_", "-"))
}

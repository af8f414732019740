// Package probes moves a pod's probes to a relay in its sidecar, and back.
//
// kubelet's probes come from outside the pod, without the mesh's certificate, and
// a proxy that answers for its app hides that the app is dead. So [Rewrite] points
// the HTTP, gRPC and TCP probes of a container, and its HTTP and TCP lifecycle
// hooks, at a relay (mesh-probe), which listens on a port that is never captured
// and probes the app from inside the pod. The relay reads what to do from the
// environment variable [Env], which holds a [Set]. An annotation keeps the
// handlers that were replaced, the [Originals], and [Restore] puts them back.
package probes

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/internal/strict"
)

const (
	// Env is the relay's environment variable that holds its [Set], as JSON.
	Env = "MESH_PROBES"
	// PodIPs is the relay's environment variable that holds the pod's addresses, by
	// commas: status.podIPs of the downward API.
	PodIPs = "MESH_PROBE_POD_IPS"
	// Annotation keeps the [Originals]. It stands under the prefix of annotations.
	Annotation = "original-probes"
	// DefaultPort is the relay's. It is among the inbound ports that are never
	// captured by default.
	DefaultPort = 15020
	// Root is what the paths of all probes begin with.
	Root = "/probe/"
	// MaxText is how many bytes the variable and the annotation may have each. The
	// kernel takes variables of 128 KiB, Kubernetes 256 KiB of annotations in all.
	MaxText = 64 << 10
	// MaxProbes is how many probes and hooks a pod may have.
	MaxProbes = 256
	// MaxHeaders is how many headers a probe may have.
	MaxHeaders = 64
)

// Kind is what a probe or hook is for. Its values are parts of the relay's paths.
type Kind string

// The kinds.
const (
	Readiness Kind = "readiness"
	Liveness  Kind = "liveness"
	Startup   Kind = "startup"
	PostStart Kind = "postStart"
	PreStop   Kind = "preStop"
)

// Kinds are all kinds, in the order in which they are reported.
func Kinds() []Kind { return []Kind{Startup, Readiness, Liveness, PostStart, PreStop} }

// IsHook reports whether it is a lifecycle hook. kubelet fails a hook that is not
// answered, and looks at no status.
func (k Kind) IsHook() bool { return k == PostStart || k == PreStop }

// Handler is how a probe asks: the name of its field in Kubernetes' API.
type Handler string

// The handlers that are relayed.
const (
	HTTPGet   Handler = "httpGet"
	TCPSocket Handler = "tcpSocket"
	GRPC      Handler = "grpc"
)

// Set is what a relay is told.
type Set struct {
	Probes []Probe `json:"probes"`
}

// Probe is one probe or hook, as the relay carries it out. It always goes to the
// pod itself.
type Probe struct {
	// Container is the name of the one that is probed.
	Container string `json:"container"`
	Kind      Kind   `json:"kind"`
	// TimeoutSeconds is kubelet's, and the relay's: at least 1. Hooks have none: 0.
	TimeoutSeconds uint32  `json:"timeoutSeconds,omitempty"`
	Handler        Handler `json:"handler"`
	Port           uint16  `json:"port"`
	// Scheme is HTTP or HTTPS, of an httpGet. Path begins with a slash there, and
	// may have a query. Headers are sent as they are; Host is the request's.
	Scheme  string   `json:"scheme,omitempty"`
	Path    string   `json:"path,omitempty"`
	Headers []Header `json:"headers,omitempty"`
	// HTTP2 is whether an httpGet without TLS speaks HTTP/2 at once (protocol: HTTP2).
	HTTP2 bool `json:"http2,omitempty"`
	// Service is what gRPC's health protocol is asked about, and TLS whether it is
	// asked over TLS (mode: TLS).
	Service string `json:"service,omitempty"`
	TLS     bool   `json:"tls,omitempty"`
}

// Header is one header of an HTTP request.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// At is the relay's path for the probe.
func (p Probe) At() string { return Path(p.Container, p.Kind) }

// Path is the relay's path for a probe or hook of a container.
func Path(container string, k Kind) string { return Root + container + "/" + string(k) }

// Text writes the value of the variable [Env]. The errors joined are those of
// [Parse].
func (s Set) Text() (string, error) {
	s.Probes = append([]Probe{}, s.Probes...) // none are [], not null
	text, err := json.Marshal(s)
	if err == nil {
		_, err = Parse(string(text))
	}
	return string(text), err
}

// Parse reads the value of the variable [Env], strictly: what it returns is
// valid. The errors joined are of type [*strict.Error], which names the field.
func Parse(text string) (Set, error) {
	var s Set
	if len(text) > MaxText {
		return s, &strict.Error{Err: fmt.Errorf("%d bytes of probes, and there may be %d; give the pod fewer or shorter "+
			"probes", len(text), MaxText)}
	}
	n, err := strict.ParseJSON([]byte(text))
	if err != nil {
		return s, fmt.Errorf("not the JSON that Intercept writes: %w", err)
	}
	if _, err := n.Into(&s); err != nil {
		return Set{}, err
	}
	if !slices.ContainsFunc(n.Fields, func(f strict.Field) bool { return f.Name == "probes" }) {
		return s, &strict.Error{Path: "probes", Err: errors.New("missing; write [] for none")}
	}
	if err := s.validate(); err != nil {
		return Set{}, err
	}
	return s, nil
}

func (s Set) validate() error {
	var errs strict.Errors
	if len(s.Probes) > MaxProbes {
		errs.Add(&strict.Error{Path: "probes", Err: fmt.Errorf("%d of them, and there may be %d", len(s.Probes), MaxProbes)})
	}
	seen := map[string]bool{}
	for i, p := range s.Probes {
		at := fmt.Sprintf("probes[%d]", i)
		for _, err := range p.problems() {
			errs.Add(&strict.Error{Path: at, Err: err})
		}
		if seen[p.At()] {
			errs.Add(&strict.Error{Path: at, Err: fmt.Errorf("%s is there twice", strict.Clip(p.At()))})
		}
		seen[p.At()] = true
	}
	return errs.Err()
}

// problems are what is wrong with a probe.
func (p Probe) problems() []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := checkName(p.Container); err != nil {
		errs = append(errs, err)
	}
	if !slices.Contains(Kinds(), p.Kind) {
		fail("kind %q is not one of readiness, liveness, startup, postStart, preStop", strict.Clip(string(p.Kind)))
	}
	switch hook := p.Kind.IsHook(); {
	case hook && p.TimeoutSeconds != 0:
		fail("timeoutSeconds: a hook has none")
	case !hook && (p.TimeoutSeconds < 1 || p.TimeoutSeconds > math.MaxInt32):
		fail("timeoutSeconds: %d is not a number of seconds from 1 to %d", p.TimeoutSeconds, math.MaxInt32)
	}
	if p.Port == 0 {
		fail("port: missing")
	}
	// What a handler has that is not its own would be sent nowhere.
	rest := p
	switch p.Handler {
	case HTTPGet:
		errs = append(errs, p.httpProblems()...)
		rest.Scheme, rest.Path, rest.Headers, rest.HTTP2 = "", "", nil, false
	case GRPC:
		if p.Kind.IsHook() {
			fail("handler: a hook cannot be grpc")
		}
		if len(p.Service) > maxValue || hasControl(p.Service) {
			fail("service: %q is not the name of one", strict.Clip(p.Service))
		}
		rest.Service, rest.TLS = "", false
	case TCPSocket:
	default:
		fail("handler %q is not one of httpGet, tcpSocket, grpc", strict.Clip(string(p.Handler)))
		return errs
	}
	if rest.Scheme != "" || rest.Path != "" || len(rest.Headers) > 0 || rest.HTTP2 || rest.Service != "" || rest.TLS {
		fail("%s has fields of another handler", p.Handler)
	}
	return errs
}

// maxValue is how long a path, a header's value or a service's name may be.
const maxValue = 8 << 10

func (p Probe) httpProblems() []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Scheme != "HTTP" && p.Scheme != "HTTPS" {
		fail("scheme: %q is not HTTP or HTTPS", strict.Clip(p.Scheme))
	}
	if p.Path == "" || len(p.Path) > maxValue {
		fail("path: %q is empty or longer than %d bytes", strict.Clip(p.Path), maxValue)
	}
	if len(p.Headers) > MaxHeaders {
		fail("headers: %d of them, and there may be %d", len(p.Headers), MaxHeaders)
	}
	for _, h := range p.Headers {
		if !isToken(h.Name) {
			fail("headers: %q is not the name of a header", strict.Clip(h.Name))
		}
		if len(h.Value) > maxValue || hasControl(h.Value) {
			fail("headers: the value of %s has a character that no header may have, or is longer than %d bytes",
				strict.OneLine(strict.Clip(h.Name)), maxValue)
		}
	}
	return errs
}

// isToken reports whether a text can be the name of a header (RFC 9110, 5.6.2).
func isToken(s string) bool {
	return s != "" && len(s) <= 256 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// hasControl reports whether a text has a character that cannot be in a header's value.
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// checkName refuses what cannot be a container's name (RFC 1123's label), and so
// has no place in a path.
func checkName(name string) error {
	if name != "" && len(name) <= 63 && strings.Trim(name, "-") == name &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" {
		return nil
	}
	return fmt.Errorf("container %q has no valid name; write small letters, digits and hyphens", strict.Clip(name))
}

// Originals are the handlers that were replaced, by the relay's path: each as
// the YAML of one field, such as "tcpSocket:\n  port: db\n".
type Originals map[string]string

// Text writes the value of the annotation [Annotation].
func (o Originals) Text() (string, error) {
	text, err := json.Marshal(o)
	if err == nil {
		_, err = ParseOriginals(string(text))
	}
	return string(text), err
}

// ParseOriginals reads the value of the annotation [Annotation]. An empty text
// stands for none. The errors are of type [*strict.Error]. What the handlers are
// like is seen when they are used.
func ParseOriginals(text string) (Originals, error) {
	if text == "" {
		return Originals{}, nil
	}
	if len(text) > MaxText {
		return nil, &strict.Error{Err: fmt.Errorf("%d bytes of original probes, and there may be %d; give the pod fewer or "+
			"shorter probes", len(text), MaxText)}
	}
	n, err := strict.ParseJSON([]byte(text))
	if err == nil && n.Kind != strict.Mapping {
		err = errors.New("not a JSON object")
	}
	if err != nil {
		return nil, &strict.Error{Err: fmt.Errorf("original probes: %w", err)}
	}
	all := Originals{}
	var errs strict.Errors
	for _, f := range n.Fields {
		text, err := f.Value.AsString()
		if err == nil {
			_, _, err = splitPath(f.Name)
		}
		if err != nil {
			errs.Add(&strict.Error{Path: strict.OneLine(strict.Clip(f.Name)), Err: err})
			continue
		}
		all[f.Name] = text
	}
	return all, errs.Err()
}

// splitPath is the inverse of [Path].
func splitPath(path string) (container string, k Kind, err error) {
	container, kind, ok := strings.Cut(strings.TrimPrefix(path, Root), "/")
	k = Kind(kind)
	if !ok || !strings.HasPrefix(path, Root) || checkName(container) != nil || !slices.Contains(Kinds(), k) {
		return "", "", fmt.Errorf("%s is not a path of the relay, such as %s", strconv.Quote(strict.Clip(path)),
			Path("app", Readiness))
	}
	return container, k, nil
}

package answer

import (
	"errors"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/arguments"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/peers/istio"
)

// The pod in which the page reads another mesh's command line: one with addresses of both families.
var (
	podIPv4 = netip.AddrFrom4([4]byte{10, 244, 1, 7})
	podIPv6 = netip.AddrFrom16([16]byte{0xfd, 0, 2, 0x44, 15: 7})
)

// resolver stands for the name servers of the pod's resolv.conf.
const resolver = "10.96.0.10"

func readIstio(s Source) (intercept.Config, []string, error) {
	words, err := arguments.Words(s.Text)
	if err != nil {
		return intercept.Config{}, nil, err
	}
	var env, notes []string
	for len(words) > 0 {
		name, _, isVariable := strings.Cut(words[0], "=")
		if !isVariable || strings.HasPrefix(name, "-") {
			break
		}
		env, words = append(env, words[0]), words[1:]
	}
	for len(words) > 0 && (strings.HasSuffix(words[0], "pilot-agent") || strings.HasSuffix(words[0], istio.Name)) {
		words = words[1:]
	}
	r, err := istio.Parse(words, peers.World{
		Environ:   env,
		Addresses: func(dataplane.Pod) ([]netip.Addr, error) { return []netip.Addr{podIPv4, podIPv6}, nil },
		ReadFile: func(name string) ([]byte, error) {
			if !strings.HasSuffix(name, "resolv.conf") {
				return nil, fs.ErrNotExist
			}
			notes = append(notes, "the pod's resolv.conf is not known here: "+resolver+" stands for its name servers")
			return []byte("nameserver " + resolver + "\n"), nil
		},
	})
	switch {
	case err != nil:
		return intercept.Config{}, nil, err
	case r.Action == peers.Help:
		return intercept.Config{}, nil, errors.New("this asks for help, and for no rules")
	case r.Action == peers.Remove, r.Action == peers.Nothing && r.Validation == nil:
		return intercept.Config{}, nil, errors.New("this asks for no rules; leave --cleanup-only and --skip-rule-apply out")
	}
	return r.Config, append(notes, r.Warnings...), nil
}

func writeIstio(c intercept.Config) (string, error) {
	l, err := istio.Write(c)
	if err != nil {
		return "", err
	}
	var words []string
	for _, variable := range l.Env {
		name, value, _ := strings.Cut(variable, "=")
		words = append(words, name+"="+arguments.Quote(value))
	}
	words = append(words, istio.Name)
	for i, arg := range l.Args {
		if !strings.HasPrefix(arg, "-") && i > 0 { // a letter's value
			words[len(words)-1] += " " + arguments.Quote(arg)
			continue
		}
		words = append(words, arguments.Quote(arg))
	}
	if len(l.Otherwise) > 0 {
		err = errors.New("istio-iptables has no flag for this, or means something else: " + strings.Join(l.Otherwise, ", "))
	}
	return strings.Join(words, " \\\n  "), err
}

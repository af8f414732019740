package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/peers/found"
	"github.com/mesh-intercept/intercept/internal/peers/pods"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/podspec"
)

const migrateName = "migrate"

// migrateHelp is the help of a verb that takes another program's flags.
const migrateHelp = `mesh-init migrate: print the configuration that does what another mesh's program does

Usage: mesh-init migrate --from istio|linkerd|kuma [-f FILE] [flags of that mesh's program]

What asks for interception is in FILE (- for standard input): a manifest with the mesh's init container or
its annotations, the ConfigMap of its injector, or the values of its Helm chart. Without -f it is in the
flags, which are those of the program: istio-iptables, linkerd2-proxy-init, kumactl install
transparent-proxy. With both, the flags come after those of the file.

The result is a configuration for --config. Its comments say what differs on purpose, and what had no
effect there or has none here.

Examples:
  mesh-init migrate --from istio -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -b '*' -d 15090,15021,15020
  kubectl get deployment web -o yaml | mesh-init migrate --from linkerd -f -
  helm get values istiod -n istio-system --all | mesh-init migrate --from istio -f -
`

func (p program) migrateVerb(env []string) cli.Verb {
	return cli.Verb{
		Name: migrateName, Does: "print the configuration that does what another mesh's program does",
		Also: []string{"convert", "import", "from"},
		Raw:  func(ctx context.Context, args []string) int { return p.migrate(ctx, args, env) },
	}
}

// migrate does the verb, and returns the exit code.
func (p program) migrate(ctx context.Context, args, env []string) int {
	console := p.console()
	usage := func(err error) int { return console.Fail(ctx, nil, cli.UsageError{Err: err}) }
	from, file, rest, err := migrateArgs(args)
	switch {
	case from == helpFrom:
		return console.Print(ctx, migrateHelp)
	case err != nil:
		return usage(err)
	}
	meshes := dropIns()
	i := slices.IndexFunc(meshes, func(d dropIn) bool { return d.changes != nil && d.mesh == from })
	if i < 0 {
		return usage(fmt.Errorf("--from: %q is not one of istio, linkerd, kuma", strict.Clip(from)))
	}
	m := meshes[i]
	asks := []found.Ask{{Where: "the command line", Args: rest, Environ: env}}
	if file != "" {
		text, err := yamldoc.ReadWithin(file, p.stdin, maxManifests)
		if err == nil {
			asks, err = found.Find(pods.Dialect(m.mesh), text)
		}
		if errors.Is(err, found.ErrNothing) {
			err = fmt.Errorf("%w of %s: there is neither its init container, nor its annotations, nor the configuration of its "+
				"injector", err, m.mesh)
		}
		if err != nil {
			return usage(strict.Under("-f "+file, err))
		}
		for k := range asks {
			asks[k].Args = append(asks[k].Args, rest...)
		}
	}
	var out bytes.Buffer
	var errs []error
	for _, same := range p.answers(ctx, m, asks, &errs) {
		if out.Len() > 0 {
			out.WriteString("---\n# Another configuration, for a file of its own: --config reads one.\n")
		}
		if err := same.write(&out, m); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return usage(errors.Join(errs...))
	}
	return console.Print(ctx, out.String())
}

// helpFrom is what migrateArgs returns where help is asked for.
const helpFrom = "--help"

// migrateArgs takes our two flags out of a command line: the others are the peer's.
func migrateArgs(args []string) (from, file string, rest []string, err error) {
	for i := 0; i < len(args); i++ {
		name, value, inline := strings.Cut(args[i], "=")
		var to *string
		switch name {
		case "--from":
			to = &from
		case "-f", "--filename":
			to = &file
		case "-h", "--help":
			return helpFrom, "", nil, nil
		default:
			rest = append(rest, args[i])
			continue
		}
		if !inline {
			if i++; i == len(args) {
				return "", "", nil, fmt.Errorf("%s: a value is missing", name)
			}
			value = args[i]
		}
		if *to != "" {
			return "", "", nil, fmt.Errorf("%s: given twice, %q and %q: give it once", name, strict.Clip(*to), strict.Clip(value))
		}
		*to = value
	}
	if from == "" {
		return "", "", nil, errors.New("--from is missing: write mesh-init migrate --from istio, linkerd or kuma")
	}
	return from, file, rest, nil
}

// An answer is a configuration, and what asks for it.
type answer struct {
	where    []string
	config   intercept.Config
	pod      dataplane.Pod
	warnings []string
}

// resolvConf is where the peers' programs look for name servers.
const resolvConf = "/etc/resolv.conf"

// somePod has the addresses of a pod of which nobody knows any: in most clusters IPv4, or IPv4 first.
func somePod() []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 0, 5}), netip.AddrFrom16([16]byte{0xfd, 0, 2, 0x44, 15: 5})}
}

// answers reads what asks for interception, and puts together what asks for the same.
func (p program) answers(ctx context.Context, m dropIn, asks []found.Ask, errs *[]error) (all []answer) {
	for _, ask := range asks {
		a := answer{where: []string{ask.Where}}
		if ask.Pod != nil {
			pod := *ask.Pod
			pod.Addresses, pod.AnyPod, pod.Document = somePod(), true, yamldoc.Document
			got, err := pods.Read(pods.Dialect(m.mesh), pod)
			if err != nil {
				*errs = append(*errs, strict.Under(ask.Where, err))
				continue
			}
			if got.Reason != podspec.Asked {
				*errs = append(*errs, fmt.Errorf("%s: it is left alone: %s", ask.Where, got.Reason))
				continue
			}
			a.config, a.warnings = got.Config, got.Warnings
		} else {
			w := p.world(ctx, ask.Environ)
			read := w.ReadFile
			w.ReadFile = func(name string) ([]byte, error) {
				if text, ok := ask.Files[name]; ok {
					return []byte(text), nil
				}
				if name == resolvConf { // the pod's is not here
					return []byte("nameserver 192.0.2.53\nnameserver 2001:db8::53\n"), nil
				}
				return read(name)
			}
			w.Addresses, w.AnyPod = func(dataplane.Pod) ([]netip.Addr, error) { return somePod(), nil }, true
			r, err := m.read(ask.Args, w)
			if err != nil {
				*errs = append(*errs, strict.Under(ask.Where, err))
				continue
			}
			a.config, a.pod, a.warnings = r.Config, r.Pod, r.Warnings
		}
		for _, name := range ask.Unknown {
			a.warnings = append(a.warnings, name+": its value is not in the manifest (valueFrom), and was not looked at")
		}
		for _, w := range intercept.Lint(a.config) {
			if !slices.Contains(a.warnings, w) {
				a.warnings = append(a.warnings, w)
			}
		}
		if a.config.Families == intercept.FamiliesIPv4 {
			a.warnings = append(a.warnings, "IPv6 is outside the mesh, as there in pods whose first address is IPv4; without "+
				"\"families: ipv4\" it is captured, and the proxy has to listen in it")
		}
		if a.config.DNS.Mode == intercept.DNSResolvConf {
			a.config.DNS.Servers = nil // mesh-init reads them in the pod
		}
		same := slices.IndexFunc(all, func(b answer) bool {
			return slices.Equal(a.flags(), b.flags()) && slices.Equal(a.warnings, b.warnings)
		})
		if same >= 0 {
			all[same].where = append(all[same].where, a.where...)
			continue
		}
		all = append(all, a)
	}
	return all
}

// flags are the fields of the configuration that differ from the default, as flags, and then what no file holds.
func (a answer) flags() (all []string) {
	for _, s := range decode.Settings(a.config, false) {
		all = append(all, cli.Quote(s.Arg()))
	}
	return append(all, a.besides()...)
}

// besides are the flags of what is no field of a configuration.
func (a answer) besides() (all []string) {
	if b := a.pod.Backend; b != "" && b != dataplane.BackendAuto {
		all = append(all, "--"+backendFlag+"="+string(b))
	}
	if a.pod.CloseWait != 0 {
		all = append(all, "--"+closeWaitFlag+"="+a.pod.CloseWait.String())
	}
	if j := a.pod.IPTables.Jumps; j != "" {
		all = append(all, "--iptables-jumps="+string(j))
	}
	return all
}

// write writes an answer as a file for --config, with comments.
func (a answer) write(out *bytes.Buffer, m dropIn) error {
	comment := func(first, text string) {
		for line := range strings.Lines(cli.Hang(first, 4, strict.OneLine(text))) {
			out.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
		}
	}
	comment("", "What "+m.program+" does, for "+strings.Join(a.where, ", ")+".")
	if flags := a.flags(); len(flags) > 0 {
		comment("", "As flags: mesh-init apply "+strings.Join(flags, " "))
	}
	if besides := a.besides(); len(besides) > 0 {
		comment("", "Besides this file: mesh-init apply --config FILE "+strings.Join(besides, " "))
	}
	if changes := m.changes(a.config); len(changes) > 0 {
		out.WriteString("#\n# What differs, on purpose:\n")
		for _, c := range changes {
			comment("  - ", fmt.Sprintf("%s: there %s, here %s: %s", c.Traffic, c.There, c.Here, c.Why))
		}
	}
	if len(a.warnings) > 0 {
		out.WriteString("#\n# What has no effect, and what to look at:\n")
		for _, w := range a.warnings {
			comment("  - ", w)
		}
	}
	text, err := yamldoc.Format(decode.Document(a.config, false))
	if err != nil {
		return err
	}
	out.WriteString("#\n")
	out.Write(text)
	return nil
}

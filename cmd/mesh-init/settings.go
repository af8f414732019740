package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/podspec/inject"
)

// settings is what the inputs come to.
type settings struct {
	config intercept.Config
	before intercept.Config // the one that config is compared with
	// over lays what was given over the configuration in force; origins has where the values of that came from, and gets
	// those of the others. Nil: config is the one.
	over func(inForce intercept.Config, origins map[string]string) (intercept.Config, error)
	// environment are the variables that over takes.
	environment []string
	target      dataplane.Pod
	dryRun      bool
	foreign     string // the mesh whose rules to remove, or none
	output      cli.Format
	logLevel    string
	logFormat   string
	flows       []byte // what --flows names
	// terminationLog is where the error of a run that failed goes, and metricsFile where its metrics do. Empty: nowhere.
	terminationLog, metricsFile string
	packet                      packetFlags
	// resolvConf is the path of the namespace's resolv.conf. Empty: it is not known.
	resolvConf string

	verification verification
	injection    injection
	// every is how often status looks again. Zero: it looks once.
	every time.Duration
	// timeout is how long to read, and mask is whether support hides what is nobody's business.
	timeout time.Duration
	mask    bool
	// all is whether status looks into every namespace of the node.
	all         bool
	observation observation
	// manifests are what lint looks at.
	manifests []inject.Source
}

// verification says what verify does beyond trying once.
type verification struct {
	wait          time.Duration
	allowUnproven bool
}

// settings makes sense of the inputs: flags before the environment before the
// file before the defaults. It returns all errors at once, and what it could
// make sense of.
func (in inputs) settings(stdin io.Reader) (settings, error) {
	values := make(map[string]setting, len(in.flags))
	for _, f := range in.flags {
		values[f.Name] = setting{Flag: f, source: "--" + f.Name, text: f.Initial}
	}
	for _, s := range in.given { // the later wins, and that is the flag
		values[s.Name] = s
	}
	s := settings{
		config: intercept.Default(),
		target: dataplane.Pod{
			NetNS:          values["netns"].text,
			AllowHostNetNS: values[allowHostFlag].text == "true",
			Backend:        dataplane.Backend(values[backendFlag].text),
			SetSysctls:     values["set-sysctls"].text == "true",

			StandIn:         values["listen"].text == "true",
			TakeOver:        values[takeOverFlag].text == "true",
			BesideOtherMesh: values[besideFlag].text == otherMesh,
			IPTables: dataplane.IPTables{
				Dialect: iptables.Dialect(strings.TrimPrefix(values["iptables-dialect"].text, autoDialect)),
				Jumps:   iptables.Jumps(values["iptables-jumps"].text),
			},
		},
		dryRun:    values[dryRunFlag].text == "true",
		foreign:   values[foreignFlag].text,
		output:    cli.Format(values[outputFlag].text),
		logLevel:  values[logLevelFlag].text,
		logFormat: values[logFormatFlag].text,
		packet:    packetFlags(values),

		terminationLog: notNone(values[terminationLogFlag].text),
		metricsFile:    notNone(values[metricsFileFlag].text),

		verification: verification{
			allowUnproven: values["allow-unproven"].text == "true",
		},
	}
	if path := values[resolvConfFlag]; s.target.NetNS == "" || path.given {
		s.resolvConf = path.text
	}
	var err error
	errs := in.errs
	if wait := values[waitFlag]; in.uses(waitFlag) {
		if s.target.IPTables.Wait, err = parseWait(wait.text); err != nil {
			errs = append(errs, strict.Under(wait.source, err))
		}
	}
	if wait := values[closeWaitFlag]; wait.text != "" {
		if s.target.CloseWait, err = parseWait(wait.text); err != nil {
			errs = append(errs, strict.Under(wait.source, err))
		}
	}
	if ips := values[hostIPsFlag]; in.uses(hostIPsFlag) {
		errs = append(errs, strict.Under(ips.source, strict.SetText(&s.target.HostIPs, ips.text)))
	}
	if wait := values[verifyWaitFlag]; in.uses(verifyWaitFlag) {
		if s.verification.wait, err = time.ParseDuration(wait.text); err != nil || s.verification.wait < 0 ||
			s.verification.wait > time.Hour {
			errs = append(errs, strict.Under(wait.source,
				fmt.Errorf("%q is not a duration from 0s to 1h; write one like 30s or 2m", wait.text)))
		}
	}
	if watch := values[watchFlag]; in.uses(watchFlag) {
		if s.every, err = time.ParseDuration(watch.text); err != nil || s.every != 0 && s.every < 100*time.Millisecond ||
			s.every > time.Hour {
			errs = append(errs, strict.Under(watch.source,
				fmt.Errorf("%q is not a duration from 100ms to 1h; write one like 2s", watch.text)))
		}
		if out := values[outputFlag]; s.every > 0 && slices.Contains([]string{"json", "yaml", prometheusOutput}, out.text) {
			errs = append(errs, fmt.Errorf("%s: it shows text; leave it out for %s %s", watch.source, out.source, out.text))
		}
	}
	if in.uses(allFlag) {
		s.all = values[allFlag].text == "true"
		errs = append(errs, in.besideAll(s.all)...)
	}
	if timeout := values[timeoutFlag]; in.uses(timeoutFlag) {
		s.mask = values[maskFlag].text == "true"
		if s.timeout, err = parseWait(timeout.text); err != nil {
			errs = append(errs, strict.Under(timeout.source, err))
		}
	}
	live, diff := values[liveFlag].text == "true", values[diffFlag].text == "true"
	if files := in.args; in.uses(configFlag) && diff && (len(files) == 2 || live && len(files) == 1) {
		var all []intercept.Config
		all, err = in.configurations(values, errs, stdin)
		s.before, s.config = all[0], all[len(all)-1]
		errs = []error{err}
	} else if in.uses(configFlag) && !live {
		s.target.Origins = map[string]string{}
		s.config, err = in.configuration(intercept.Default(), values, errs, stdin, s.target.Origins)
		errs = []error{err}
	} else if in.uses(takeOverFlag) && live {
		s.over = func(inForce intercept.Config, origins map[string]string) (intercept.Config, error) {
			return in.configuration(inForce, values, nil, stdin, origins)
		}
		for _, g := range in.given {
			if g.Name == resolvConfFlag {
				errs = append(errs, fmt.Errorf("%s: the rules in force keep the servers that they were made of; name others with "+
					"--dns-servers, or leave out --%s", g.source, liveFlag))
			}
			if (g.Path != "" || g.Name == configFlag) && !strings.HasPrefix(g.source, "--") {
				s.environment = append(s.environment, g.source)
			}
		}
	}
	if in.uses(forFlag) {
		s.observation, err = observationOf(values)
		errs = append(errs, err)
	}
	if in.uses(filenameFlag) && !in.uses(profileFlag) {
		s.manifests, err = manifestsAt(values[filenameFlag].texts, stdin)
		errs = append(errs, strict.Under("--"+filenameFlag, err))
	} else if in.uses(filenameFlag) {
		s.injection = injectionOf(values)
		if err := s.injection.read(stdin); !slices.ContainsFunc(in.errs, func(e error) bool { // it may be given twice
			return e != nil && strings.HasPrefix(e.Error(), "--"+filenameFlag+": ")
		}) {
			errs = append(errs, err)
		}
	}
	if in.uses(matrixFlag) {
		// Whatever is wrong with the packet belongs among the other errors.
		errs = append(errs, in.explained(s)...)
		if flows := values[flowsFlag]; flows.given {
			if s.flows, err = readFlows(flows, stdin); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return s, errors.Join(errs...)
}

// notNone is a path, or nothing if it is the word none.
func notNone(path string) string {
	if path == "none" {
		return ""
	}
	return path
}

// parseWait reads a time to wait. iptables-restore counts it in seconds.
func parseWait(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration; write one like 5s or 1m", text)
	}
	if d < time.Second || d > time.Hour || d%time.Second != 0 {
		return 0, fmt.Errorf("%q is not a number of seconds from 1s to 1h", text)
	}
	return d, nil
}

// configuration lays the flags over the environment, that over the file, and
// that over a configuration. Its errors follow those that there are already. origins gets where values came from.
func (in inputs) configuration(under intercept.Config, values map[string]setting, errs []error, stdin io.Reader,
	origins map[string]string) (intercept.Config, error) {
	layers := decode.Over(under)
	layers.Errs.Add(errs...)
	layers.Name = func(f decode.Field) string { return "--" + f.Name }
	if file := values[configFlag]; file.text != "" {
		data, err := yamldoc.ReadFile(file.text, stdin)
		if err != nil {
			layers.Document(file.source, strict.Node{}, err)
		} else {
			name := file.text
			if name == "-" {
				name = "standard input"
			}
			doc, err := yamldoc.ParseLong(data)
			layers.Document(name, doc, err)
		}
	}
	taken := values[configFlag].text == "-"
	list := func(path string) ([]byte, error) {
		if path == "-" && taken {
			return nil, errors.New("standard input can be read once, and is read already")
		}
		taken = taken || path == "-"
		return yamldoc.ReadFile(path, stdin)
	}
	for _, s := range in.given {
		switch {
		case s.Path == "":
		case s.inFiles():
			pieces, err := s.pieces(list)
			layers.Unreadable(s.source, s.Path, err)
			layers.List(s.Field, pieces)
		default:
			layers.Text(s.source, s.Field, s.text)
		}
	}
	if layers.NeedsServers() {
		path := values[resolvConfFlag]
		servers, err := resolvers(path.text)
		origins[serversField] = path.text
		layers.Servers(servers)
		layers.ServersUnreadable(path.source, err)
	}
	for _, f := range decode.Fields() {
		if from := layers.Origin(f.Path).Source; from != "" {
			origins[f.Path] = from
		}
	}
	return layers.Done()
}

// configurations are those of the files that explain --diff names. All are under the flags and the environment.
func (in inputs) configurations(values map[string]setting, errs []error, stdin io.Reader) (
	all []intercept.Config, err error,
) {
	diff, files := values[diffFlag], in.args
	if config := values[configFlag]; config.given && len(files) > 1 {
		errs = append(errs, fmt.Errorf("%s: --%s names both files; leave it out", config.source, diffFlag))
	}
	all = make([]intercept.Config, len(files))
	if len(files) > 1 && files[0] == "-" && files[1] == "-" {
		errs = append(errs, fmt.Errorf("%s: both files are standard input, which can be read once", diff.source))
		files = nil
	}
	for i, file := range files {
		with := maps.Clone(values)
		of := with[configFlag]
		of.source, of.text = diff.source, file
		with[configFlag] = of
		all[i], err = in.configuration(intercept.Default(), with, errs, stdin, map[string]string{})
		errs = []error{err}
	}
	return all, errors.Join(errs...)
}

// fileMark begins the name of a file that has a list.
const fileMark = "@"

// inFiles reports whether any of the texts of a list's flag names a file. A variable names none.
func (s setting) inFiles() bool {
	return s.IsList() && slices.ContainsFunc(s.texts, func(text string) bool { return strings.HasPrefix(text, fileMark) })
}

// pieces are the texts of a list's flag, those of files read.
func (s setting) pieces(read func(path string) ([]byte, error)) (all []decode.Piece, err error) {
	for _, text := range s.texts {
		path, is := strings.CutPrefix(text, fileMark)
		if !is {
			all = append(all, decode.Piece{Source: s.source, Text: text})
			continue
		}
		data, failed := read(path)
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		all = append(all, decode.Piece{Source: s.source + " " + text, Text: string(data), Lines: true})
	}
	return all, err
}

func resolvers(path string) ([]netip.Addr, error) {
	data, err := yamldoc.ReadFile(path, nil)
	if err != nil {
		return nil, fmt.Errorf("%w; name the servers with --dns-servers", err)
	}
	servers := intercept.ParseResolvConf(string(data))
	if len(servers) == 0 {
		return nil, fmt.Errorf("%s names no server; name the servers with --dns-servers", path)
	}
	return servers, nil
}

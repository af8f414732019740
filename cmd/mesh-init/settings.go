package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/iptables"
)

// settings is what the inputs come to.
type settings struct {
	config    intercept.Config
	target    dataplane.Pod
	dryRun    bool
	output    cli.Format
	logLevel  string
	logFormat string
	packet    packetFlags
}

// settings makes sense of the inputs: flags before the environment before the
// file before the defaults. It returns all errors at once, and what it could
// make sense of.
func (in inputs) settings(stdin io.Reader) (settings, error) {
	values := map[string]setting{}
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
			AllowHostNetNS: values["allow-host-netns"].text == "true",
			Backend:        dataplane.Backend(values[backendFlag].text),
			SetSysctls:     values["set-sysctls"].text == "true",
			IPTables: dataplane.IPTables{
				Dialect: iptables.Dialect(values["iptables-dialect"].text),
				Last:    values["iptables-jumps"].text == "last",
			},
		},
		dryRun:    values["dry-run"].text == "true",
		output:    cli.Format(values[outputFlag].text),
		logLevel:  values[logLevelFlag].text,
		logFormat: values[logFormatFlag].text,
		packet:    packetFlags(values),
	}
	errs := in.errs
	if wait := values[waitFlag]; in.uses(waitFlag) {
		var err error
		if s.target.IPTables.Wait, err = parseWait(wait.text); err != nil {
			errs = append(errs, decode.Under(wait.source, err))
		}
	}
	if in.uses(configFlag) {
		d := decoder{c: &s.config, inputs: in, values: values, unread: map[string]bool{}}
		d.file(stdin)
		d.settings()
		d.resolvConf()
		d.validate()
		errs = append(errs, d.errs...)
	}
	if in.uses(dstFlag) {
		// Whatever is wrong with the packet belongs among the other errors.
		if _, err := s.packet.packet(s.config); err != nil {
			errs = append(errs, err)
		}
	}
	return s, errors.Join(errs...)
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

// decoder fills in a configuration and collects everything that is wrong.
type decoder struct {
	c      *intercept.Config
	inputs inputs
	values map[string]setting
	// unread are the fields whose values could not be read, "" for all.
	unread map[string]bool
	errs   []error
}

// file reads the configuration file, if there is one.
func (d *decoder) file(stdin io.Reader) {
	file := d.values[configFlag]
	if file.text == "" {
		return
	}
	data, err := readFile(file.text, stdin)
	if err != nil {
		d.unread[""] = true
		d.errs = append(d.errs, fmt.Errorf("%s: %w", file.source, err))
		return
	}
	fields, err := decodeFile(data, d.c)
	for _, f := range fields {
		d.unread[f] = true
	}
	if err != nil {
		name := file.text
		if name == "-" {
			name = "standard input"
		}
		d.errs = append(d.errs, decode.Under(name, err))
	}
}

// settings sets the fields that the environment and then the flags name.
func (d *decoder) settings() {
	for _, s := range d.inputs.given {
		if s.Path == "" {
			continue
		}
		if err := decode.SetField(d.c, s.Path, s.text); err != nil {
			d.unread[s.Path] = true
			d.errs = append(d.errs, decode.Under(s.source, err))
		}
	}
}

// resolvConf finds the servers of mode resolvconf where none are named. An
// empty list that was asked for stays empty, for validate to refuse.
func (d *decoder) resolvConf() {
	if d.c.DNS.Mode != intercept.DNSResolvConf || len(d.c.DNS.Servers) > 0 || d.sourceOf(serversField) != "" || d.isUnread(serversField) {
		return
	}
	path := d.values[resolvConfFlag]
	servers, err := resolvers(path.text)
	if err != nil {
		d.unread[serversField] = true
		d.errs = append(d.errs, decode.Under(path.source, err))
		return
	}
	d.c.DNS.Servers = servers
}

// validate adds what the configuration itself finds wrong, and where that
// comes from. It leaves out what follows from errors that are there already.
func (d *decoder) validate() {
	bad := len(d.errs) > 0 || len(d.inputs.errs) > 0
	for _, err := range decode.Flatten(d.c.Validate()) {
		var field *intercept.FieldError
		switch {
		case !errors.As(err, &field): // nothing is captured
			if bad {
				continue
			}
		case d.isUnread(field.Field):
			continue
		default:
			if source := d.sourceOf(field.Field); source != "" {
				err = fmt.Errorf("%w (from %s)", err, source)
			}
		}
		d.errs = append(d.errs, err)
	}
}

// sourceOf returns the flag or variable that set a field, or "".
func (d *decoder) sourceOf(field string) (source string) {
	for _, s := range d.inputs.given {
		if s.Path != "" && decode.IsPart(field, s.Path) {
			source = s.source
		}
	}
	return source
}

// isUnread reports whether a field, a part of it or what it is a part of
// could not be read.
func (d *decoder) isUnread(field string) bool {
	for f := range d.unread {
		if decode.IsPart(field, f) || decode.IsPart(f, field) {
			return true
		}
	}
	return false
}

func resolvers(path string) ([]netip.Addr, error) {
	data, err := readFile(path, nil)
	if err != nil {
		return nil, fmt.Errorf("%w; name the servers with --dns-servers", err)
	}
	servers := intercept.ParseResolvConf(string(data))
	if len(servers) == 0 {
		return nil, fmt.Errorf("%s names no server; name the servers with --dns-servers", path)
	}
	return servers, nil
}

// maxFile is more than any configuration needs: 100,000 CIDRs take half of it.
const maxFile = 4 << 20

// readFile reads a file that a person has named, or stdin for "-" if there is one.
func readFile(path string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if path != "-" || stdin == nil {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxFile:
		return nil, fmt.Errorf("%s: over %d bytes, too large for a configuration", path, maxFile)
	}
	return data, nil
}

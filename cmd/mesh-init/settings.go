package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
)

// settings is what the inputs come to.
type settings struct {
	verb      verbRow
	config    intercept.Config
	target    dataplane.Target
	dryRun    bool
	json      bool // the result's format
	logLevel  string
	logFormat string
	packet    packetFlags
}

// settings makes sense of the inputs: flags before the environment before the
// file before the defaults. It returns all errors at once, and what it could
// make sense of.
func (in inputs) settings(stdin io.Reader) (settings, error) {
	values := map[string]setting{}
	for _, f := range flags() {
		values[f.name] = setting{flag: f, source: "--" + f.name, text: f.initial}
	}
	for _, s := range in.settings { // the later wins, and that is the flag
		values[s.name] = s
	}
	s := settings{
		verb:   in.verb,
		config: intercept.Default(),
		target: dataplane.Target{
			NetNS:          values["netns"].text,
			AllowHostNetNS: values["allow-host-netns"].text == "true",
			Backend:        dataplane.Backend(values["backend"].text),
		},
		dryRun:    values["dry-run"].text == "true",
		json:      values["format"].text == "json",
		logLevel:  values[logLevelFlag].text,
		logFormat: values[logFormatFlag].text,
		packet:    packetFlags(values),
	}
	errs := in.errs
	if in.verb.verb&configures != 0 {
		errs = append(errs, in.configure(&s.config, values, stdin)...)
	}
	if in.verb.verb == explainVerb {
		// Whatever is wrong with the packet belongs among the other errors.
		if _, err := s.packet.packet(s.config); err != nil {
			errs = append(errs, err)
		}
	}
	return s, errors.Join(errs...)
}

// configure fills in c and returns everything that is wrong with it.
func (in inputs) configure(c *intercept.Config, values map[string]setting, stdin io.Reader) (errs []error) {
	bad := len(in.errs) > 0
	unknown := map[string]bool{} // fields whose values could not be read
	if file := values[configFlag]; file.text != "" {
		data, err := readFile(file.text, stdin)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", file.source, err))
		} else if fields, err := decodeFile(data, c); err != nil {
			errs = append(errs, under(file.text, err))
			for _, f := range fields {
				unknown[f] = true
			}
		}
		bad = bad || len(errs) > 0
	}
	sources := map[string]string{}
	for _, s := range in.settings {
		if s.field == "" {
			continue
		}
		sources[s.field] = s.source
		if err := setField(c, s.field, s.text); err != nil {
			errs = append(errs, under(s.source, err))
			unknown[s.field] = true
		}
	}
	// An empty list that was asked for stays empty, and is refused below.
	if c.DNS.Mode == intercept.DNSResolvConf && len(c.DNS.Servers) == 0 && sources["dns.servers"] == "" && !unknown["dns.servers"] {
		var err error
		if c.DNS.Servers, err = resolvers(values[resolvConfFlag].text); err != nil {
			errs = append(errs, under(values[resolvConfFlag].source, err))
			unknown["dns.servers"] = true
		}
	}
	for _, err := range flatten(c.Validate()) {
		var field *intercept.FieldError
		switch {
		case !errors.As(err, &field):
			// Nothing captured: maybe only because of what could not be read.
			if !bad && len(unknown) == 0 {
				errs = append(errs, err)
			}
		case unknown[""] || slices.ContainsFunc(mapKeys(unknown), func(f string) bool { return related(f, field.Field) }):
			// A consequence of an error that is reported already.
		default:
			source := sources[field.Field]
			if base, _, ok := strings.Cut(field.Field, "["); ok {
				source = sources[base]
			}
			if source != "" {
				err = fmt.Errorf("%w (from %s)", err, source)
			}
			errs = append(errs, err)
		}
	}
	return errs
}

func mapKeys(m map[string]bool) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	return keys
}

// related reports whether one of two field paths is the other or a part of it.
func related(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }

func resolvers(path string) ([]netipAddr, error) {
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

// setField sets the field of c at a path such as "outbound.excludePorts" from
// a flag's text. On error it leaves the field as it is.
func setField(c *intercept.Config, path, text string) error {
	v := reflect.ValueOf(c).Elem()
	for name := range strings.SplitSeq(path, ".") {
		v = fieldByName(v, name)
	}
	fresh := reflect.New(v.Type())
	if err := setText(fresh.Interface(), text); err != nil {
		return err
	}
	v.Set(fresh.Elem())
	return nil
}

// fieldByName returns the field of a struct by its name in JSON, or the zero
// Value.
func fieldByName(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if jsonName(v.Type().Field(i)) == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

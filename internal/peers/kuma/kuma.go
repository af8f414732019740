// Package kuma reads the command lines of Kuma's kumactl that are about a transparent proxy: install transparent-proxy,
// uninstall transparent-proxy, install transparent-proxy-validator. docs/migrate-kuma.md has what becomes of each
// setting, and where this differs from kumactl on purpose.
package kuma

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// Parse says what a command line asks for. The words of the command may be left out: without them it is install
// transparent-proxy. All errors are joined.
func Parse(args []string, w peers.World) (peers.Request, error) {
	r := reader{world: w, given: map[string]given{}}
	r.Config, r.Action = intercept.Default(), peers.Apply
	line, err := r.line(args)
	if err != nil {
		return r.Request, err
	}
	if line.given(keyHelp) {
		r.Action, r.Text = peers.Help, helpText(line.command)
		return r.Request, nil
	}
	r.Lenient = line.is(keyLenient)
	for _, path := range append(line.texts(keyConfig), line.texts(keyValidatorConfig)...) {
		for file := range strings.SplitSeq(path, ",") {
			r.file(strings.TrimSpace(file))
		}
	}
	if line.command != uninstall {
		r.environment()
	}
	line.over(&r)
	r.understand(line.command)
	return r.Request, r.errs.Err()
}

// given is what was written for a setting, and where.
type given struct {
	setting
	texts []string
	// source is as an error names it: a flag, a variable, a field of a file with its line.
	source string
	byFlag bool
}

// reader puts together what is given, the weakest source first.
type reader struct {
	peers.Request
	world peers.World
	given map[string]given
	errs  strict.Errors
}

func (r *reader) fail(source, format string, args ...any) {
	r.errs.Add(fmt.Errorf("%s: %w", source, fmt.Errorf(format, args...)))
}

// take puts what a source has for a setting in place of what weaker ones have.
func (r *reader) take(g given) {
	if g.form == programs {
		g.texts = append(slices.Clone(r.given[g.key()].texts), g.texts...)
	}
	r.given[g.key()] = g
}

// line is a command line as pflag has read it.
type line struct {
	command command
	set     *pflag.FlagSet
}

// texts is a flag's value: all that was given for it.
type texts struct {
	form  form
	given []string
}

// String is part of [pflag.Value].
func (t *texts) String() string { return strings.Join(t.given, ",") }

// Set is part of [pflag.Value].
func (t *texts) Set(s string) error {
	t.given = append(t.given, s)
	return nil
}

// Type is part of [pflag.Value].
func (t *texts) Type() string { return string(t.form) }

// older are flags of kumactl's earlier versions that it refuses by now, with what is to be written.
func older(flag string) string {
	switch {
	case strings.HasPrefix(flag, "ebpf-"):
		return "leave it out: the rules are those of nftables or iptables"
	case flag == "redirect-inbound-port-v6":
		return "write --redirect-inbound-port, which is for both families"
	case flag == "ipv6-disabled":
		return "write --ip-family-mode ipv4"
	case flag == "exclude-outbound-tcp-ports-for-uids", flag == "exclude-outbound-udp-ports-for-uids":
		return "write --exclude-outbound-ports-for-uids tcp:PORTS:UIDS, or udp:…"
	case flag == "redirect-dns-upstream-target-chain":
		return "leave it out: the proxy's own lookups pass"
	}
	return ""
}

// line reads the flags and the words among them.
func (r *reader) line(args []string) (line, error) {
	l := line{install, pflag.NewFlagSet("kuma", pflag.ContinueOnError)}
	var names []string
	for _, s := range settings() {
		if s.flag == "" {
			continue
		}
		names = append(names, "--"+s.flag)
		letter := map[string]string{keyHelp: "h", "mesh": "m"}[s.flag]
		f := l.set.VarPF(&texts{form: s.form}, s.flag, letter, "")
		if s.form == truth {
			f.NoOptDefVal = "true"
		}
	}
	if err := l.set.Parse(args); err != nil {
		if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
			flag := unknown.GetSpecifiedName()
			if remedy := older(flag); remedy != "" {
				return l, fmt.Errorf("--%s is of an earlier Kuma: %s", flag, remedy)
			}
			return l, fmt.Errorf("%w; %s", err, strict.Hint("--"+flag, names, "mesh-init kuma --help lists the flags"))
		}
		return l, err
	}
	words := l.set.Args()
	for _, c := range []command{validate, install, uninstall} {
		verb, object, _ := strings.Cut(string(c), " ")
		switch {
		case len(words) > 1 && words[0] == verb && words[1] == object:
			l.command, words = c, words[2:]
		case len(words) > 0 && words[0] == object && c != uninstall: // mesh-init kuma transparent-proxy-validator
			l.command, words = c, words[1:]
		case len(words) == 1 && words[0] == verb && c != validate: // mesh-init kuma uninstall
			l.command, words = c, nil
		default:
			continue
		}
		break
	}
	if len(words) > 0 && !slices.Contains([]string{"true", "false"}, words[0]) {
		return l, fmt.Errorf("%q: mesh-init stands in for kumactl with %s, %s and %s", words[0], install, uninstall, validate)
	}
	for _, w := range words {
		r.Warn("%q is left over and has no effect: a switch's value is written --switch=%s", w, w)
	}
	l.set.Visit(func(f *pflag.Flag) {
		if !lookup(keyOf(f.Name)).has(l.command) {
			r.fail("--"+f.Name, "%s has no such flag", l.command)
		}
	})
	return l, r.errs.Err()
}

// keyOf is the key of the setting that a flag gives.
func keyOf(flag string) string {
	for _, s := range settings() {
		if s.flag == flag {
			return s.key()
		}
	}
	return flag
}

func (l line) given(flag string) bool { return l.set.Changed(flag) }

func (l line) texts(flag string) []string {
	if t, ok := l.set.Lookup(flag).Value.(*texts); ok {
		return t.given
	}
	return nil
}

// is reports whether a switch is on.
func (l line) is(flag string) bool {
	all := l.texts(flag)
	on := false
	if len(all) > 0 {
		on, _ = isTrue(all[len(all)-1])
	}
	return on
}

// over puts the flags over what else is given.
func (l line) over(r *reader) {
	l.set.Visit(func(f *pflag.Flag) {
		s := lookup(keyOf(f.Name))
		all := l.texts(f.Name)
		if s.flag == "kuma-dp-uid" {
			s = lookup(keyUser)
		}
		switch {
		case s.form == list:
			all = split(all, ";") // as the documentation writes several exclusions
		case s.form != programs && len(all) > 1:
			r.Warn("--%s is given %d times; the last one counts: %s", f.Name, len(all), strict.Clip(all[len(all)-1]))
			all = all[len(all)-1:]
		}
		r.take(given{s, all, "--" + f.Name, true})
	})
}

// split splits each text at a separator, and leaves out what is empty.
func split(all []string, separator string) (items []string) {
	for _, text := range all {
		for item := range strings.SplitSeq(text, separator) {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	}
	return items
}

// environment reads the variables.
func (r *reader) environment() {
	names := map[string]setting{}
	var known []string
	for _, s := range settings() {
		if s.path != "" {
			names[s.env()] = s
			known = append(known, s.env())
		}
	}
	for _, e := range r.world.Environ {
		name, text, _ := strings.Cut(e, "=")
		s, ours := names[name]
		switch {
		case !strings.HasPrefix(name, envPrefix):
		case !ours:
			r.unknown(name, strict.Hint(name, known, ""), strict.Node{Kind: strict.Scalar, Text: text})
		case s.form == list:
			r.take(given{s, split([]string{text}, ","), name, false})
		case text != "" || s.form == ports || s.form == word:
			r.take(given{s, []string{text}, name, false})
		}
	}
}

// unknown is about a field or a variable that there is not. kumactl passes over it in silence. Where it may be one by
// which traffic is captured, that would leave it outside.
func (r *reader) unknown(source, hint string, n strict.Node) {
	text := "is not known, and has no effect."
	if hint != "" {
		text = strings.TrimSuffix(text, ".") + "; " + hint
	}
	if !r.Lenient && captures(hint, n) {
		r.fail(source, "%s Correct it, or leave it out, so that nothing stays outside that is to be captured "+
			"(--lenient accepts it)", text)
		return
	}
	r.Warn("%s: %s", source, text)
}

// captures reports whether a field that is not known, and may be one of those in the hint, was to have traffic
// captured that is not captured otherwise.
func captures(hint string, n strict.Node) bool {
	hint = strings.ToLower(strings.ReplaceAll(hint, "_", ""))
	meant := func(name string) bool { return strings.Contains(hint, strings.ToLower(name)) }
	switch n.Kind {
	case strict.Mapping:
		return slices.ContainsFunc(n.Fields, func(f strict.Field) bool { return captures(f.Name, f.Value) })
	case strict.List:
		return meant("networks") && len(n.Items) > 0
	case strict.Scalar:
		on, err := isTrue(n.Text)
		return (meant("enabled") || meant("captureAll")) && err == nil && on || meant("networks") && n.Text != ""
	case strict.Null:
	}
	return false
}

// isTrue reads a switch as kumactl does, in a file also as YAML 1.1 writes it.
func isTrue(text string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "true", "t", "1", "yes", "y", "on":
		return true, nil
	case "false", "f", "0", "no", "n", "off":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", strict.Clip(text))
}

// helpText lists a command's flags.
func helpText(c command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "mesh-init kuma %s [flags]: in place of kumactl %s\n\n", c, c)
	for _, s := range settings() {
		if !s.has(c) {
			continue
		}
		head := "--" + s.flag
		if s.form != truth {
			head += " " + string(s.form)
		}
		if s.initial != "" && s.initial != "false" {
			head += " (" + s.initial + ")"
		}
		fmt.Fprintf(&b, "  %s\n      %s\n", head, strings.ReplaceAll(s.becomes, "`", ""))
	}
	if c == install {
		b.WriteString("\nA flag goes before the environment (" + envPrefix + "…), and that before the files of --config.\n")
	}
	return b.String()
}

// parseDuration reads 2s, and "2s" in quotes, as kumactl's flag wants it.
func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(strings.Trim(text, `"`))
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration; write one like 2s", strict.Clip(text))
	}
	return d, nil
}

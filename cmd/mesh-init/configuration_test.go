package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/podspec"
	"github.com/mesh-intercept/intercept/ruleset"
	configs "github.com/mesh-intercept/intercept/settings"
)

// examples are flags that set each field to something other than its default, with others where one needs them.
func examples() map[string]string {
	return map[string]string{
		"outbound.port":            "--outbound-port=15001-15004",
		"inbound.port":             "--inbound-port=15006-15007",
		"tunnelPort":               "--tunnel-port=none",
		"dns.port":                 "--dns-port=5353",
		"proxy.uids":               "--proxy-uid=101",
		"proxy.gids":               "--proxy-gid=none",
		"proxy.mark":               "--proxy-mark=0x700/0xf00",
		"proxy.allowRoot":          "--allow-root-proxy --proxy-uid=0 --proxy-gid=none",
		"inbound.mode":             "--inbound-mode=tproxy",
		"inbound.includePorts":     "--inbound-include-ports=8080,8443",
		"inbound.excludePorts":     "--inbound-exclude-ports=15020,15021,15090,9100",
		"inbound.excludeSources":   "--inbound-exclude-sources=192.0.2.0/24",
		"inbound.exclude":          "--inbound-exclude=10.0.0.0/8:8080-8090",
		"inbound.hairpin":          "--hairpin=pass",
		"inbound.captureForwarded": "--capture-forwarded",
		"inbound.tproxy.mark":      "--inbound-mode=tproxy --tproxy-mark=0x40",
		"inbound.tproxy.selfMark":  "--inbound-mode=tproxy --tproxy-self-mark=0x41",
		"inbound.tproxy.table":     "--inbound-mode=tproxy --tproxy-table=200",
		"inbound.dropInvalid":      "--drop-invalid",
		"outbound.includeCIDRs":    "--outbound-include-cidrs=10.96.0.0/12",
		"outbound.excludeCIDRs":    "--outbound-exclude-cidrs=169.254.169.254,192.0.2.0/24",
		"outbound.includePorts":    "--outbound-include-cidrs=none --outbound-include-ports=80,443",
		"outbound.excludePorts":    "--outbound-exclude-ports=5432,6379",
		"outbound.exclude":         "--outbound-exclude='tcp 192.0.2.0/24:9000-9100 uid=1000-1999'",
		"outbound.target":          "--outbound-target=169.254.1.1:15001,[fd00::1]:15001",
		"outbound.udp":             "--udp=reject",
		"outbound.quic":            "--quic=reject",
		"outbound.otherProtocols":  "--other-protocols=reject",
		"outbound.includeUIDs":     "--include-uids=1000-1999",
		"outbound.excludeUIDs":     "--exclude-uids=2000",
		"outbound.includeGIDs":     "--include-gids=1000",
		"outbound.excludeGIDs":     "--exclude-gids=2000",
		"dns.mode":                 "--dns=all",
		"dns.target":               "--dns=all --dns-target=169.254.20.10:53,[fd00:53::10]:53",
		"dns.servers":              "--dns=resolvconf --dns-servers=10.96.0.10",
		"dns.tcp":                  "--dns=all --dns-tcp=false",
		"dns.virtual":              "--dns=all --dns-virtual=false --virtual-interfaces=docker0",
		"excludeInterfaces":        "--exclude-interfaces=net1,eth*",
		"virtualInterfaces":        "--virtual-interfaces=k6t-*,docker0",
		"virtualNetworks":          "--virtual-interfaces=docker0 --virtual-networks=docker0:172.17.0.0/16",
		"loopback":                 "--loopback=127.0.0.0/8,::1",
		"passthroughSources":       "--passthrough-sources=127.0.0.7,::7",
		"backstop":                 "--backstop=syn",
		"families":                 "--families=dual",
		"otherFamily":              "--families=ipv4 --other-family=reject",
	}
}

// TestConfigurationPage keeps the reference in docs/configuration.md the same as the tables that the programs read by.
// With MESH_TEST_UPDATE=1 it writes them instead.
func TestConfigurationPage(t *testing.T) {
	keep(t, "../../docs/configuration.md", map[string]string{
		"fields": fieldReference(t), "flags": flagTable(),
	})
	keep(t, "../../docs/annotations.md", map[string]string{
		"annotations": ownAnnotations(), "fields": fieldAnnotations(),
	})
}

// TestForms: the page says how each kind of value is written.
func TestForms(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range decode.Fields() {
		if f.Choices() == nil && !strings.Contains(string(page), "\n| `"+f.Form+"` | `") {
			t.Errorf("it does not say how %s is written, as for %s", f.Form, f.Name)
		}
	}
}

// keep holds parts of a page to what they should be: those between comments with their names.
func keep(t *testing.T, page string, parts map[string]string) {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for name, want := range parts {
		begin, end := strings.Index(text, "<!-- "+name+":"), strings.Index(text, "<!-- /"+name+" -->")
		if begin < 0 || end < begin {
			t.Fatalf("%s: no place for %s", page, name)
		}
		begin += strings.Index(text[begin:], "\n") + 1
		if os.Getenv("MESH_TEST_UPDATE") == "1" {
			text = text[:begin] + want + text[end:]
		} else if diff := gocmp.Diff(want, text[begin:end]); diff != "" {
			t.Errorf("%s: %s is not as in the code (-): run MESH_TEST_UPDATE=1 go test ./cmd/mesh-init -run '%s'\n%s",
				page, name, t.Name(), diff)
		}
	}
	if text != string(b) {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// fieldReference has a section of each field.
func fieldReference(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	var group decode.Group
	all := examples()
	for _, f := range decode.Fields() {
		if f.Group != group {
			group = f.Group
			fmt.Fprintf(&b, "\n## %s\n", group)
		}
		flag := "--" + f.Name
		if !f.IsSwitch() {
			flag += " " + f.Form
		}
		meaning := strings.ReplaceAll(f.Usage+f.Again, "\n", " ")
		fmt.Fprintf(&b, "\n### `%s`\n\n%s%s.\n\n", f.Path, strings.ToUpper(meaning[:1]), meaning[1:])
		fmt.Fprintf(&b, "- flag `%s`, variable `%s`, annotation `%s/%s`\n", flag, f.Env(), podspec.DefaultPrefix, f.Name)
		fmt.Fprintf(&b, "- default: `%s`\n", f.Initial)
		args := all[f.Path]
		if lines := linesOf(t, f.Path, args); lines != "" {
			fmt.Fprintf(&b, "- policy: %s\n", lines)
		}
		fmt.Fprintf(&b, "- example: `%s`, and in the file\n\n```yaml\n%s```\n", args, exampleFile(t, f.Path, args))
		delete(all, f.Path)
	}
	for path := range all {
		t.Errorf("there is an example of %s, which is no field", path)
	}
	return b.String() + "\n"
}

// linesOf are the lines of the policy whose rules a field changes: those of an example beside the same without it.
func linesOf(t *testing.T, path, args string) string {
	t.Helper()
	c, err := configs.Load(exampleFile(t, path, args))
	if err != nil {
		t.Fatal(err)
	}
	var others []string
	for _, s := range decode.Settings(c, false) {
		if s.Field.Path != path {
			others = append(others, s.Arg())
		}
	}
	without, err := configOfFlags(others)
	if err != nil {
		return "" // the others need it
	}
	before, err := rulesByID(without)
	if err != nil {
		return ""
	}
	after, err := rulesByID(c)
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(after, func(id string, rule ruleset.Rule) bool {
		same := reflect.DeepEqual(before[id], rule)
		if same {
			delete(before, id)
		}
		return same
	})
	maps.Copy(after, before)
	var lines []string
	for id := range after {
		line, _, _ := strings.Cut(id[strings.LastIndex(id, "/")+1:], ".")
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	slices.SortFunc(lines, func(a, b string) int { // O9 is before O10, and the backstop comes last
		order := func(s string) int { return strings.Index("ZOIB", s[:1]) }
		return cmp.Or(order(a)-order(b), len(a)-len(b), strings.Compare(a, b))
	})
	return strings.Join(lines, ", ")
}

// rulesByID are the rules of a configuration by their chains and IDs, without those by which a line that is asked again
// lets packets go.
func rulesByID(c intercept.Config) (map[string]ruleset.Rule, error) {
	rs, err := intercept.Compile(c)
	all := map[string]ruleset.Rule{}
	for _, chain := range rs.Chains {
		for _, rule := range chain.Rules {
			_, passes := rule.Target.(ruleset.Return)
			if id := string(rule.ID); !passes || !strings.Contains(id, "/") {
				all[chain.Name+"/"+id] = rule
			}
		}
	}
	return all, err
}

// exampleFile is what a configuration file says instead of flags, which set a field to something else than its default.
func exampleFile(t *testing.T, path, args string) []byte {
	t.Helper()
	c, err := configOfFlags(arguments(args))
	if err != nil {
		t.Fatalf("the example of %s: %v", path, err)
	}
	set := slices.ContainsFunc(decode.Settings(c, false), func(s decode.Setting) bool { return s.Field.Path == path })
	if !set {
		t.Errorf("the example of %s leaves it at its default: %q", path, args)
	}
	text := configs.YAML(c)
	if read, err := configs.Load(text); err != nil || !reflect.DeepEqual(read, c) {
		t.Errorf("the example of %s as a file: %v\n%s", path, err, text)
	}
	return text
}

// configOfFlags is what a command line says.
func configOfFlags(args []string) (intercept.Config, error) {
	flags := pflag.NewFlagSet("example", pflag.ContinueOnError)
	given := configs.RegisterFlags(flags)
	if err := flags.Parse(args); err != nil {
		return intercept.Config{}, err
	}
	r, err := configs.Read(configs.Sources{Flags: given})
	return r.Config, err
}

// arguments are a command line's words, with single quotes around those that have spaces.
func arguments(line string) (all []string) {
	word, begun := "", false
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			word, begun = word+part, true
			continue
		}
		for _, r := range part {
			switch {
			case !unicode.IsSpace(r):
				word, begun = word+string(r), true
			case begun:
				all, word, begun = append(all, word), "", false
			}
		}
	}
	if begun {
		all = append(all, word)
	}
	return all
}

// flagTable has the flags of mesh-init that set no field.
func flagTable() string {
	var b strings.Builder
	b.WriteString("| flag | value | default | meaning | verbs |\n| --- | --- | --- | --- | --- |\n")
	var groups []decode.Group
	rows := map[decode.Group]string{}
	for _, f := range allFlags() {
		if f.Path != "" || f.Name == "help" {
			continue
		}
		if !slices.Contains(groups, f.Group) {
			groups = append(groups, f.Group)
		}
		rows[f.Group] += flagRow(f)
	}
	for _, group := range groups {
		fmt.Fprintf(&b, "| **%s** | | | | |\n%s", group, rows[group])
	}
	return b.String()
}

func flagRow(f cli.Flag) string {
	name, initial := "`--"+f.Name+"`", f.Initial
	if f.Short != "" {
		name += ", `-" + f.Short + "`"
	}
	if f.IsSwitch() {
		initial = ""
	}
	if !f.Once {
		name += ", `" + f.Env() + "`"
	}
	var of []string
	every := true
	for _, v := range verbs() {
		if uses(v, f.Name) {
			of = append(of, v.Name)
		} else {
			every = false
		}
	}
	if every {
		of = []string{"all"}
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", name, cell(f.Form), cell(initial),
		strings.ReplaceAll(strings.ReplaceAll(f.Usage+f.Again, "\n", " "), "|", "\\|"), strings.Join(of, ", "))
}

// ownAnnotations are those that set no field.
func ownAnnotations() string {
	var b strings.Builder
	b.WriteString("| annotation | value | written by | read by | meaning |\n| --- | --- | --- | --- | --- |\n")
	for _, a := range podspec.Annotations() {
		if a.Field != "" {
			continue
		}
		who := annotationParties(a.Name)
		fmt.Fprintf(&b, "| `%s/%s` | %s | %s | %s | %s |\n", podspec.DefaultPrefix, a.Name, cell(a.Form), who[0], who[1],
			strings.ReplaceAll(a.Meaning, "|", `\|`))
	}
	return b.String()
}

// annotationParties says who writes an annotation that sets no field, and who reads it.
func annotationParties(name string) [2]string {
	const node, injects = "plugin, agent", "`inject`, webhook"
	switch name {
	case podspec.Enabled:
		return [2]string{"you, " + injects, node + ", " + injects}
	case podspec.ConfigField:
		return [2]string{"you", node + ", " + injects}
	case podspec.Init, podspec.RuntimeClass:
		return [2]string{injects, node}
	case podspec.Inject, podspec.Profile, podspec.SidecarResources, podspec.SidecarVolumes, podspec.SidecarVolumeMounts:
		return [2]string{"you", injects}
	case podspec.OriginalProbes, podspec.Injected:
		return [2]string{injects, injects}
	}
	panic("who writes " + name + "?")
}

// fieldAnnotations are those that set a field, with a link to it.
func fieldAnnotations() string {
	var b strings.Builder
	b.WriteString("| annotation | value | default | limit | field |\n| --- | --- | --- | --- | --- |\n")
	limits := podspec.DefaultLimits()
	for _, a := range podspec.Annotations() {
		if a.Field == "" {
			continue
		}
		limit := ""
		if l, ok := limits[a.Name]; ok {
			limit = l.String()
		}
		anchor := strings.ToLower(strings.ReplaceAll(a.Field, ".", ""))
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | [`%s`](configuration.md#%s) |\n", a.Name, cell(a.Form), cell(a.Initial),
			cell(limit), a.Field, anchor)
	}
	return b.String()
}

// TestExamples: what the page shows of the example's intent, a configuration for each field, compiles.
func TestExamples(t *testing.T) {
	for path, args := range examples() {
		c, err := configs.Load(exampleFile(t, path, args))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := intercept.Compile(c); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

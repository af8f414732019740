//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/podspec"
	library "github.com/mesh-intercept/intercept/settings"
)

// TestListFile: whatever flag takes a list takes one from a file, an item a line, and means what it means without.
func TestListFile(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		f, err := os.CreateTemp(dir, "list")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return "@" + f.Name()
	}
	items := map[string][]string{
		"PORTS": {"81", "90-99"}, "CIDRS": {"10.0.0.0/8", "fd00::/8"}, "IDS": {"2001", "2003-2005"},
		"ADDRESSES": {"10.0.0.1", "fd00::1"}, "NAMES": {"eth7", "net*"}, "ADDRESSES:PORT": {"10.9.9.9:53", "[fd00::9]:53"},
		"--inbound-exclude": {"10.0.0.0/8:8080", ":9090"}, "--outbound-exclude": {"udp :53", "tcp 10.0.0.0/8:80 uid=5"},
		"--virtual-networks": {"docker0:172.17.0.0/16", "docker0:172.18.0.0/16"},
		"--loopback":         {"127.0.0.1", "::1"},
	}
	also := map[string][]string{
		"--virtual-networks": {"--virtual-interfaces=docker0"}, "--inbound-include-ports": {"--inbound-exclude-ports=none"},
	}
	tried := 0
	for _, f := range decode.Fields() {
		flag := "--" + f.Name
		list, known := items[flag]
		if !known {
			list, known = items[f.Form]
		}
		if !f.IsList() {
			if f.Form == "PORTS" || f.Form == "CIDRS" {
				t.Errorf("%s is no list", flag)
			}
			continue
		}
		if !known {
			t.Errorf("%s is a list of %s, of which this test has none", flag, f.Form)
			continue
		}
		tried++
		separator := ","
		if f.Repeats() {
			separator = ";"
		}
		want := configOf(t, "", nil, append(also[flag], flag, strings.Join(list, separator))...)
		for _, text := range []string{
			strings.Join(list, "\n"), "# ours\n\n  " + strings.Join(list, " # why\r\n\t") + "\n\n",
			strings.Join(list, separator+"\n") + "\n", strings.Join(list, separator),
		} {
			if got := configOf(t, "", nil, append(also[flag], flag, file(text))...); !reflect.DeepEqual(got, want) {
				t.Errorf("%s %q: %v, not %v", flag, text, got, want)
			}
		}
	}
	if tried < 15 {
		t.Errorf("%d flags take lists", tried)
	}

	// One that can be given again can be given files as well.
	want := configOf(t, "", nil, "--outbound-exclude", "udp :53; :80; :81; :82")
	got := configOf(t, "", nil, "--outbound-exclude", "udp :53", "--outbound-exclude", file(":80\n:81"),
		"--outbound-exclude", file(":82"))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("several: %v, not %v", got, want)
	}
	r := invoke(t, "10.0.0.0/8\n", nil, "render", "-o", "json", "--outbound-exclude-cidrs", "@-")
	if r.code != cli.ExitDone || !strings.Contains(r.out, "10.0.0.0/8") {
		t.Errorf("standard input: exit code %d, %s", r.code, r.stderr)
	}
}

// TestLongList: a list that no argument has room for is read.
func TestLongList(t *testing.T) {
	const n = 50_000
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "10.%d.%d.%d/32 # %d\n", i/60_000, i/250%250, 1+i%250, i)
	}
	r := invoke(t, text.String(), nil, "render", "-o", "json", "--outbound-exclude-cidrs", "@-")
	var v struct{ Config intercept.Config }
	if err := json.Unmarshal([]byte(r.out), &v); err != nil || len(v.Config.Outbound.ExcludeCIDRs) != n {
		t.Errorf("%d CIDRs, %v, %.200s", len(v.Config.Outbound.ExcludeCIDRs), err, r.stderr)
	}
}

// TestListFileMistakes: what is wrong in a list's file is named with the file and the line, and a file that cannot be
// one is refused without waiting for anybody.
func TestListFileMistakes(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	write("bad", "10.0.0.0/8\n# x\n\n10.0.0.1/8,\nfd00::/8, x\n")
	write("empty", "# nothing\n")
	write("rules", "udp :53\nudp\n\nfoo\n")
	write("many", strings.Repeat("x\n", 50_000))
	write("over", strings.Repeat("1\n", strict.MaxItems+1))
	write("alone", "80\nnone\n")
	large, err := os.Create(filepath.Join(dir, "large"))
	if err != nil {
		t.Fatal(err)
	}
	if err := large.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	large.Close()
	const cidrs, ports = "--outbound-exclude-cidrs", "--outbound-exclude-ports"
	for args, want := range map[string][]string{
		cidrs + " @bad": {
			`--outbound-exclude-cidrs @bad: CIDR "10.0.0.1/8" has host bits set; write 10.0.0.0/8, or 10.0.0.1/32 for the ` +
				`one address (line 4)`,
			`--outbound-exclude-cidrs @bad: "x" is not an address or a CIDR (as in 10.1.2.3, 10.0.0.0/8 or fd00::/8) (line 5)`,
		},
		cidrs + " @empty": {
			`--outbound-exclude-cidrs @empty: there is nothing in it; write "none" for an empty list`},
		"--outbound-exclude @rules": {`--outbound-exclude @rules: "foo": neither a protocol, nor a destination; write ` +
			`[tcp|udp] [CIDRS][:PORTS] [uid=IDS] [gid=IDS], and a port as :foo (line 4)`},
		ports + " @alone":   {`--outbound-exclude-ports @alone: "none" in "80,none": it means an empty list and stands alone`},
		ports + " @over":    {fmt.Sprintf("--outbound-exclude-ports @over: a list of %d items: there can be", strict.MaxItems+1)},
		ports + " @missing": {"--outbound-exclude-ports: open missing: no such file or directory"},
		ports + " @.":       {"--outbound-exclude-ports: read .: is a directory"},
		ports + " @large":   {"--outbound-exclude-ports: large: too large: over"},
		ports + " @fifo":    {"--outbound-exclude-ports: fifo: a FIFO that nobody writes into"},
		ports + " @/dev/zero": {
			"--outbound-exclude-ports: /dev/zero: not a regular file: it is a device"},
		ports + " @- " + cidrs + " @-": {
			"--outbound-exclude-cidrs: standard input can be read once, and is read already"},
	} {
		r := invoke(t, "80\n", nil, append([]string{"apply"}, strings.Fields(args)...)...)
		lines := r.lines()
		if r.code != cli.ExitUsage || len(lines) != len(want) {
			t.Errorf("%s: exit code %d, %.300s", args, r.code, r.stderr)
			continue
		}
		for i := range want {
			if !strings.HasPrefix(lines[i], "mesh-init: "+want[i]) {
				t.Errorf("%s: %s; want %s", args, lines[i], want[i])
			}
		}
	}
	r := invoke(t, "", nil, "apply", ports, "@many")
	lines := r.lines()
	if len(lines) != strict.Most+1 || !strings.HasSuffix(lines[0], "(line 1)") ||
		lines[strict.Most] != fmt.Sprintf("mesh-init: and %d more errors", 50_000-strict.Most) {
		t.Errorf("many mistakes: %.300s … %s", r.stderr, lines[len(lines)-1])
	}
	r = invoke(t, `{"dns": {}}`, nil, "apply", "--config", "-", ports, "@-")
	if r.code != cli.ExitUsage || !strings.Contains(r.stderr, "is read already") {
		t.Errorf("standard input twice: %s", r.stderr)
	}
}

// TestNoFileElsewhere: only who gives flags names files of lists. What a pod says of itself, and what is not a flag of
// ours, reads none.
func TestNoFileElsewhere(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("secret", []byte("10.99.0.0/16\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused := map[string]func() error{
		"an annotation": func() error {
			_, err := podspec.Read(map[string]string{"intercept.mesh/enabled": "true",
				"intercept.mesh/outbound-exclude-cidrs": "@secret"}, podspec.Options{})
			return err
		},
		"names in an annotation": func() error {
			_, err := podspec.Read(map[string]string{"intercept.mesh/enabled": "true",
				"intercept.mesh/exclude-interfaces": "@secret"}, podspec.Options{})
			return err
		},
		"an annotation's document": func() error {
			_, err := podspec.Read(map[string]string{"intercept.mesh/enabled": "true",
				"intercept.mesh/config": `{"outbound":{"excludeCIDRs":"@secret"}}`}, podspec.Options{})
			return err
		},
		"the plugin's entry": func() error {
			_, err := cniconf.Parse([]byte(`{"type":"mesh-cni","defaults":{"outbound":{"excludeCIDRs":"@secret"}}}`))
			return err
		},
		"a file": func() error { _, err := library.Load([]byte("outbound: {excludeCIDRs: '@secret'}")); return err },
		"a variable": func() error {
			_, err := library.FromEnvironment([]string{"MESH_OUTBOUND_EXCLUDE_CIDRS=@secret"})
			return err
		},
	}
	for what, args := range map[string][]string{
		"istio-iptables": {"istio-iptables", "-x", "@secret"},
		"linkerd-init":   {"linkerd-init", "--incoming-proxy-port=4143", "--outgoing-proxy-port=4140", "--proxy-uid=2102", "--subnets-to-ignore=@secret"},
		"kuma":           {"kuma", "--exclude-outbound-ips=@secret"},
	} {
		refused[what] = func() error { return refusal(invoke(t, "", nil, args...)) }
	}
	for what, read := range refused {
		err := read()
		if err == nil || !strings.Contains(err.Error(), "@secret") || strings.Contains(err.Error(), "10.99") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// refusal is what a run says that has refused its flags.
func refusal(r result) error {
	if r.code != cli.ExitUsage {
		return nil
	}
	return errors.New(r.stderr)
}

//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// supportOf holds a document against its schema, and returns its parts' errors and all its text.
func supportOf(t *testing.T, text string) (doc map[string]any, errs map[string]string) {
	t.Helper()
	schema := schemaOf(t, "support.schema.json")
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if err := schema.Validate(value); err != nil {
		t.Fatalf("%#v\n%s", err, text)
	}
	doc, errs = value.(map[string]any), map[string]string{}
	for name, part := range doc["parts"].(map[string]any) {
		if e, ok := part.(map[string]any)["error"]; ok {
			errs[name] = e.(string)
		}
	}
	return doc, errs
}

// supportNamespace is one with things to tell of.
func supportNamespace(t *testing.T) *netlab.Namespace {
	t.Helper()
	netlab.Require(t)
	netlab.RequireProgram(t, "ip")
	netlab.RequireProgram(t, "iptables-nft")
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	setUp := exec.Command("sh", "-ec", `
		ip link set lo up
		ip link add acme7 type veth peer name veth9
		ip link set acme7 up
		ip addr add 81.2.7.9/24 dev acme7
		ip addr add 10.77.1.2/24 dev acme7
		ip -6 addr add 2a02:77::5/64 dev acme7 nodad
		ip route add 81.2.9.0/24 via 81.2.7.1
		ip rule add pref 50 from 81.2.7.9 fwmark 0x5/0xff uidrange 10-20 lookup 77
		ip route add blackhole 81.2.8.0/24 table 77
		iptables-nft -A OUTPUT -d 81.2.7.44 -m comment --comment "the word of alice" -j ACCEPT`)
	setUp.Stderr = new(bytes.Buffer)
	if err := ns.Start(setUp, nil); err != nil {
		t.Fatal(err)
	}
	if err := setUp.Wait(); err != nil {
		t.Fatalf("%v: %s", err, setUp.Stderr)
	}
	return ns
}

// listenInPlace has somebody who is not the proxy listen at its port for outbound connections, until the test ends.
func listenInPlace(t *testing.T, ns *netlab.Namespace) {
	t.Helper()
	if err := ns.Do(func() error {
		l, err := net.Listen("tcp", ":15001")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestSupport: the document is of its schema, in whatever state the namespace is; it has what is there.
func TestSupport(t *testing.T) {
	ns := supportNamespace(t)
	mesh := func(args ...string) (string, string, int) {
		var out, errOut bytes.Buffer
		code := run(t.Context(), append(args, "-n", ns.Path()), nil, nil, &out, &errOut)
		return out.String(), errOut.String(), code
	}
	text, _, code := mesh("support")
	if _, errs := supportOf(t, text); code != cli.ExitDone || len(errs) != 2 || errs["inForce"] == "" ||
		!strings.HasPrefix(errs["status"], "not intercepted") {
		t.Fatalf("without rules: exit code %d, errors %q", code, errs)
	}
	if _, said, code := mesh("apply", "--outbound-exclude-cidrs", "81.2.7.0/24", "--exclude-interfaces",
		"acme7"); code != 0 {
		t.Fatal(said)
	}
	text, said, code := mesh("support", "--dns", "all", "--dns-port", "5300")
	doc, errs := supportOf(t, text)
	if code != cli.ExitDone || len(errs) != 0 || said != "" {
		t.Errorf("exit code %d, %q, errors %q", code, said, errs)
	}
	for _, want := range []string{`"81.2.7.9/24"`, `"2a02:77::5/64"`, `"81.2.7.9/32"`, `"0x5/0xff"`, `"10-20"`,
		`"blackhole"`,
		`"acme7"`, `"gateway": "81.2.7.1"`, `the word of alice`, `"net/ipv4/conf/all/rp_filter"`, `"CapEff"`, `"port": 5300`,
		`"O12"`} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
	inForce := doc["parts"].(map[string]any)["inForce"].(map[string]any)["value"].(map[string]any)
	kept, _ := json.Marshal(inForce)
	if !strings.Contains(string(kept), `"81.2.7.0/24"`) {
		t.Errorf("in force is %s", kept)
	}

	listenInPlace(t, ns)
	masked, _, code := mesh("support", "--mask")
	if _, errs := supportOf(t, masked); code != cli.ExitDone || len(errs) != 0 {
		t.Errorf("masked: exit code %d, errors %q", code, errs)
	}
	for _, secret := range []string{"81.2.7.9", "81.2.7.1", "81.2.7.44", "10.77.1.2", "2a02:77::5", "acme", "alice"} {
		if at := strings.Index(masked, secret); at >= 0 {
			t.Errorf("masked, and %s in …%s…", secret, masked[max(0, at-80):at+40])
		}
	}
	for _, want := range []string{`"masked": true`, `"127.0.0.1/8"`, `"::1/128"`, `"interface-1"`, `"veth9"`,
		`--comment \"masked\" -j ACCEPT`} {
		if !strings.Contains(masked, want) {
			t.Errorf("masked: there is no %s in\n%s", want, masked)
		}
	}
	yaml, _, code := mesh("support", "-o", "yaml", "--mask")
	if code != cli.ExitDone || !strings.HasPrefix(yaml, "version: 1\n") {
		t.Errorf("YAML: exit code %d\n%s", code, yaml)
	}
}

// TestSupportUnprivileged: what the kernel does not show is there with the reason, and the rest without.
func TestSupportUnprivileged(t *testing.T) {
	program, ns := built(t), supportNamespace(t)
	text, said, code := runAs(t, ns, 65534, nil, program, "support")
	_, errs := supportOf(t, text)
	for _, part := range []string{"inForce", "status"} {
		if !strings.Contains(errs[part], "permission") {
			t.Errorf("%s: %q", part, errs[part])
		}
		delete(errs, part)
	}
	if code != cli.ExitDone || said != "" || len(errs) != 0 || !strings.Contains(text, "81.2.7.9") {
		t.Errorf("exit code %d, %q, errors %q\n%s", code, said, errs, text)
	}
	text, _, code = runAs(t, ns, 65534, []uintptr{unix.CAP_NET_ADMIN}, program, "support")
	if _, errs := supportOf(t, text); code != cli.ExitDone || len(errs) != 2 {
		t.Errorf("with NET_ADMIN: exit code %d, errors %q", code, errs)
	}
	text, said, code = runAs(t, ns, 65534, nil, program, "support -n "+ns.Path())
	if _, errs := supportOf(t, text); code != cli.ExitDone || said != "" || !strings.Contains(errs["routes"],
		"permission") {
		t.Errorf("where it may not enter: exit code %d, %q, errors %q", code, said, errs)
	}
}

// TestSupportUsage: what is asked for wrongly is named, and nothing is read.
func TestSupportUsage(t *testing.T) {
	for args, want := range map[string]string{
		"support --timeout 0s":    "--timeout: \"0s\" is not a number of seconds",
		"support --timeout never": "--timeout: \"never\" is not a duration",
		"support -o xml":          "xml",
		"support --mask=perhaps":  "--mask",
		"support now":             "now",
	} {
		if r := invoke(t, "", nil, strings.Fields(args)...); r.code != cli.ExitUsage || r.out != "" ||
			!strings.Contains(r.stderr, want) {
			t.Errorf("%s: exit code %d, %q", args, r.code, r.stderr)
		}
	}
	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"support", "-n", "/nowhere"}, nil, nil, &out, &errOut); code != 16 ||
		out.Len() > 0 {
		t.Errorf("no namespace: exit code %d, %q", code, &errOut)
	}
}

// slowPlane never answers.
type slowPlane struct{ fakePlane }

func (slowPlane) Do(_ context.Context, _ func() error) error { select {} }

// TestSupportTimeout: what hangs is named, and what was read before it is there.
func TestSupportTimeout(t *testing.T) {
	r := invokeOn(t, slowPlane{}, "", nil, "support", "--timeout", "1s")
	_, errs := supportOf(t, r.out)
	if r.code != cli.ExitDone || !strings.Contains(errs["interfaces"], "within 1s") || !strings.Contains(errs["doctor"],
		"--timeout") ||
		errs["given"] != "" || errs["process"] != "" {
		t.Errorf("exit code %d, %q", r.code, errs)
	}
}

//go:build linux

package main

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

const operations = "../../docs/operations.md"

// A symptom is a row of the table "From symptom to command": what somebody notices, which command names the cause in its
// first line, and what mends it. Beside it is how a pod comes to be so.
type symptom struct {
	notices string
	// command is what to run, with -n and the pod's namespace if it looks into a kernel.
	command string
	// says is what the first line has: parts in their order, with … between them.
	says   string
	remedy string
	// cure is the command of the remedy, if there is one: after it the flow comes to cured, and status has nothing to say.
	cure string
	// cured is where the flow is to come. Empty: redirect(15001).
	cured string

	// apply are the arguments of apply. Nil: there are no rules.
	apply []string
	// files are those that the command names.
	files map[string]string
	// noProxy is true of a pod in which nobody listens at the proxy's ports.
	noProxy bool
	// breaks is run by sh in the pod when all is there, and breaking is for what a shell cannot do.
	breaks   string
	breaking func(*testing.T, *netlab.Lab)
	// flow is what somebody notices: what a flow from the pod comes to, by the sides of its delivery's text.
	flow netlab.Flow
	fate string
}

// toServer is a connection of the app's.
func toServer(to string) netlab.Flow {
	return netlab.Flow{From: netlab.FromPod, Protocol: intercept.TCP, Owner: &intercept.Owner{UID: 1000, GID: 1000},
		Dst: netip.MustParseAddrPort(to)}
}

// symptoms are all of them, in the order in which to look.
func symptoms() []symptom {
	lookup := toServer("8.8.8.8:53")
	lookup.Protocol = intercept.UDP
	asProxy := toServer("192.0.2.7:443")
	asProxy.Owner = &intercept.Owner{UID: 1337, GID: 1000}
	return []symptom{
		{notices: "Nothing goes to the proxy: there are no rules", command: "mesh-init status",
			says: "not intercepted: the namespace has none of our rules", remedy: "`mesh-init apply` in the pod's namespace",
			cure: "mesh-init apply", flow: toServer("192.0.2.7:443"), fate: "pass"},
		{notices: "Nothing goes to the proxy, though `apply` worked: it was run in another namespace",
			command: "mesh-init status", says: "not intercepted: … its addresses are 10.244.0.5",
			remedy: "compare the address with the pod's (`kubectl get pod -o wide`); name the pod's namespace with `-n`",
			cure:   "mesh-init apply",
			breaking: func(t *testing.T, lab *netlab.Lab) {
				t.Helper()
				another, err := netlab.NewNamespace()
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = another.Close() })
				if r := onKernel(t, "apply", "-n", another.Path()); r.code != 0 {
					t.Fatal(r)
				}
			},
			flow: toServer("192.0.2.7:443"), fate: "pass"},
		{notices: "`apply` refuses: the namespace is a node's that is a container (kind, k3d, minikube)",
			command: "mesh-init status", says: "node … which has chains of kube-proxy or kubelet",
			remedy: "name the pod's namespace with `-n`",
			breaks: "nft add table ip nat; nft add chain ip nat KUBE-SERVICES; " +
				"ip link add kube-ipvs0 type veth peer name other",
			flow: toServer("192.0.2.7:443"), fate: "pass"},
		{notices: "`apply` refuses, or traffic goes to another mesh's proxy", command: "mesh-init status",
			says:   "rules of another mesh are in the namespace: Istio",
			remedy: "`mesh-init apply --take-over`, or take the pod out of that mesh",
			cure:   "mesh-init apply --take-over",
			breaks: `nft 'table ip nat { chain ISTIO_OUTPUT { meta skuid != 1337 meta l4proto tcp redirect to :15001; };
				chain OUTPUT { type nat hook output priority -100; jump ISTIO_OUTPUT; }; }'`,
			flow: toServer("192.0.2.7:443"), fate: "redirect(15001)"},
		{notices: "A changed configuration has no effect: the rules are of the old one",
			command: "mesh-init check --config new.yaml", says: "made from another configuration",
			remedy: "`mesh-init apply --config new.yaml`", cure: "mesh-init apply --config new.yaml", apply: []string{"--outbound-exclude-ports", "5432"},
			files: map[string]string{"new.yaml": "outbound: {excludePorts: none}\n"},
			flow:  toServer("192.0.2.7:5432"), fate: "pass"},
		{notices: "After an upgrade: the rules are of the older version", command: "mesh-init status",
			says:   "changed: written by mesh-init …, and mesh-init … makes other rules",
			remedy: "`mesh-init apply --live`; see [Upgrade, rollback, downgrade](#upgrade-rollback-downgrade)",
			cure:   "mesh-init apply --live",
			breaks: "nft -f ../../testing/traffic/testdata/older/3a3f8b8.nft",
			flow:   toServer("192.0.2.7:443"), fate: "redirect(15001)"},
		{notices: "Somebody has changed the rules", command: "mesh-init status",
			says: "changed: chain output, rule O12: missing", cure: "mesh-init apply --live",
			remedy: "`mesh-init apply --live`; `mesh-init watch` names who does it",
			apply:  []string{}, breaks: `nft delete rule inet mesh_intercept output handle $(nft -a list chain inet ` +
				`mesh_intercept output | sed -n 's/.*"O12:.*# handle //p')`,
			flow: toServer("192.0.2.7:443"), fate: "reject"},
		{notices: "Some connections go elsewhere: another's NAT is asked first", command: "mesh-init status",
			says:   "changed: table ip a, chain b: was registered after ours at priority -199, so the kernel asks it",
			apply:  []string{},
			remedy: "`mesh-init apply --live`, which puts ours first; have the other use a priority above -199",
			cure:   "mesh-init apply --live",
			breaks: "nft add table ip a; nft add chain ip a b '{ type nat hook output priority -199; }'; " +
				"nft add rule ip a b tcp dport 80 dnat to 10.244.0.1:8080",
			flow: toServer("192.0.2.7:80"), fate: "dnat(10.244.0.1:8080)"},
		{notices: "The proxy reaches nobody, or what is excluded comes to the pod itself: another's NAT takes what ours let go",
			command: "mesh-init status",
			says:    "taken: chain OUTPUT of table ip nat (nat at hook output, priority -100) comes after ours",
			apply:   []string{},
			remedy:  "take that rule out, or have it leave alone what the proxy sends; `mesh-init verify` tries it",
			breaks:  "iptables-nft -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15006",
			flow:    asProxy, fate: "redirect(15006)"},
		{notices: "One family goes past the proxy, such as IPv6", command: "mesh-init status",
			says:   "partial: IPv6 is not captured, and the namespace has the address fd00:244::5",
			apply:  []string{"--families=ipv4"},
			remedy: "`mesh-init apply --live --families auto`, or `--other-family reject`",
			cure:   "mesh-init apply --live --families auto",
			flow:   toServer("[2001:db8::7]:443"), fate: "pass"},
		{notices: "An app goes past the proxy: it runs as the proxy's user (UID clash)", command: "mesh-init status",
			says: "shared: … runs as the proxy's user 1337, but not in its container", apply: []string{},
			remedy:   "give the proxy a user and a group of its own: `--proxy-uid`, `--proxy-gid`, `runAsUser`",
			breaking: runAsProxy, flow: asProxy, fate: "pass"},
		{notices: "Connections are refused: the proxy does not listen", command: "mesh-init status",
			says: "unserved: nobody listens at TCP port 15001", remedy: "start the sidecar, or let it listen there",
			apply: []string{}, noProxy: true, flow: toServer("192.0.2.7:443"), fate: "reject"},
		{notices: "New connections hang, old ones go on: the table of connection tracking is full",
			command: "mesh-init status", says: "full: connection tracking is … full", apply: []string{},
			remedy:   "raise `net.netfilter.nf_conntrack_max` on the node",
			breaking: fillConntrack, flow: toServer("192.0.2.7:443"), fate: "drop"},
		{notices: "One destination goes past the proxy: it is excluded by mistake",
			command: "mesh-init explain --why-not 10.1.2.3:443 --config mesh.yaml",
			says:    "not captured: pass, by O10.cidrs: excluded destination",
			remedy:  "the change that the command prints first: `mesh-init apply --live` with these flags",
			cure:    "mesh-init apply --live --outbound-exclude-cidrs none",
			apply:   []string{"--outbound-exclude-cidrs", "10.0.0.0/8"},
			files:   map[string]string{"mesh.yaml": "outbound: {excludeCIDRs: 10.0.0.0/8}\n"},
			flow:    toServer("10.1.2.3:443"), fate: "pass"},
		{notices: "Lookups go past the resolver: they are of a server that nobody has listed",
			command: "mesh-init explain --why-not 8.8.8.8:53 --proto udp --config mesh.yaml",
			says:    "not captured: pass, by O14: 8.8.8.8 is none of the servers whose lookups are captured",
			remedy:  "list the server (`--dns-servers`), or `--dns all`",
			cure:    "mesh-init apply --live --dns-servers 10.96.0.10,8.8.8.8", cured: "redirect(15053)",
			apply: []string{"--dns", "resolvconf", "--dns-servers", "10.96.0.10"},
			files: map[string]string{"mesh.yaml": "dns: {mode: resolvconf, servers: [10.96.0.10]}\n"},
			flow:  lookup, fate: "pass"},
	}
}

// TestSymptoms breaks a pod in each way of the table. What somebody would notice happens, the command names the cause in
// its first line, and the command of the remedy mends it.
func TestSymptoms(t *testing.T) {
	netlab.Require(t)
	for _, program := range []string{"nft", "ip", "iptables-nft"} {
		netlab.RequireProgram(t, program)
	}
	for _, s := range symptoms() {
		t.Run(s.notices, func(t *testing.T) {
			t.Parallel()
			s.try(t)
		})
	}
}

func (s symptom) try(t *testing.T) {
	lab := netlab.NewT(t, netlab.Options{})
	if !s.noProxy {
		if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
			t.Fatal(err)
		}
	}
	if s.apply != nil {
		if r := onKernel(t, append([]string{"apply", "-n", lab.Pod.Path()}, s.apply...)...); r.code != 0 {
			t.Fatal(r)
		}
	}
	if s.breaks != "" {
		cmd := exec.Command("sh", "-euc", s.breaks)
		if err := lab.Pod.Start(cmd, nil); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%s: %v", s.breaks, err)
		}
	}
	if s.breaking != nil {
		s.breaking(t, lab)
	}
	if got, err := lab.Send(s.flow); err != nil || !strings.HasPrefix(got.String(), s.fate) {
		t.Errorf("%s: %s, %v, and not %s", s.flow, got, err, s.fate)
	}
	r := s.call(t, lab, s.command)
	first, _, _ := strings.Cut(cmp.Or(r.out, r.stderr), "\n")
	rest := first
	for part := range strings.SplitSeq(s.says, "…") {
		_, after, found := strings.Cut(rest, strings.TrimSpace(part))
		if !found {
			t.Errorf("%s does not say %q in its first line, but\n%s", s.command, s.says, first)
			break
		}
		rest = after
	}
	if s.cure == "" {
		return
	}
	if r := s.call(t, lab, s.cure); r.code != 0 {
		t.Errorf("%s: %+v", s.cure, r)
	}
	want := cmp.Or(s.cured, "redirect(15001)")
	if got, err := lab.Send(s.flow); err != nil || !strings.HasPrefix(got.String(), want) {
		t.Errorf("after %s %s: %s, %v, and not %s", s.cure, s.flow, got, err, want)
	}
	if r := s.call(t, lab, "mesh-init status"); s.cured == "" && !strings.HasPrefix(r.out, "intercepting: ") {
		t.Errorf("after %s: %+v", s.cure, r)
	}
}

// call runs a command of the table in the pod.
func (s symptom) call(t *testing.T, lab *netlab.Lab, command string) result {
	t.Helper()
	dir := t.TempDir()
	args := strings.Fields(command)[1:]
	if args[0] != "explain" {
		args = append(args, "-n", lab.Pod.Path())
	}
	for name, text := range s.files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for i := range args {
			if args[i] == name {
				args[i] = path
			}
		}
	}
	return onKernel(t, args...)
}

// onKernel runs mesh-init on a kernel.
func onKernel(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr strings.Builder
	code := run(t.Context(), args, nil, strings.NewReader(""), &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// runAsProxy starts a program in another container (mount namespace) than the proxy's, as the proxy's user.
func runAsProxy(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	app := exec.Command("cat")
	app.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	in, err := app.StdinPipe()
	if err == nil {
		err = lab.Pod.Start(app, &intercept.Owner{UID: 1337, GID: 1000})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // which ends it
		if err := app.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// fillConntrack fills the table of connection tracking with flows that were answered, so that none makes room.
func fillConntrack(t *testing.T, lab *netlab.Lab) {
	t.Helper()
	room := 0
	err := lab.Pod.Do(func() error {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
		if err == nil {
			room, err = strconv.Atoi(strings.TrimSpace(string(text)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if room > 1<<20 {
		netlab.Skip(t, fmt.Sprintf("needs a table that can be filled: net.netfilter.nf_conntrack_max is %d", room))
	}
	entries := func(yield func(netlab.Entry) bool) {
		for i := range room + 1 {
			src := [4]byte{198, 18}
			binary.BigEndian.PutUint16(src[2:], uint16(i>>16))
			if !yield(netlab.Entry{Protocol: intercept.UDP, Answered: true,
				Src: netip.AddrPortFrom(netip.AddrFrom4(src), uint16(i)), Dst: netip.MustParseAddrPort("198.19.0.1:9")}) {
				return
			}
		}
	}
	if full, made, err := lab.Pod.FillEntries(entries); err != nil || !full {
		t.Fatalf("%d entries, full: %t, %v", made, full, err)
	}
}

// TestSymptomsPage keeps the page's table the same as the one above: each row of it is a pod that is broken so. With
// MESH_TEST_UPDATE=1 it writes the table instead.
func TestSymptomsPage(t *testing.T) {
	b, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(b), "<!-- symptoms: a test keeps this the same as the code -->\n")
	table, after, ended := strings.Cut(rest, "<!-- /symptoms -->\n")
	if !found || !ended {
		t.Fatal("no place for the table of symptoms")
	}
	want := "| symptom | command | its first line says | remedy |\n| --- | --- | --- | --- |\n"
	for _, s := range symptoms() {
		want += fmt.Sprintf("| %s | `%s` | `%s` | %s |\n", s.notices, s.command, s.says, s.remedy)
	}
	if os.Getenv("MESH_TEST_UPDATE") == "1" {
		text := before + "<!-- symptoms: a test keeps this the same as the code -->\n" + want + "<!-- /symptoms -->\n" + after
		if err := os.WriteFile(operations, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if diff := gocmp.Diff(want, table); diff != "" {
		t.Errorf("the table differs from the code (-): run MESH_TEST_UPDATE=1 go test ./cmd/mesh-init -run Symptoms\n%s",
			diff)
	}
}

//go:build linux

// Command demo shows Intercept at work: it makes a pod, starts a sidecar in
// it, applies the rules with mesh-init, sends real traffic, and prints where
// each flow went and which rule sent it there.
//
// It needs Linux and root. All happens in network namespaces of its own, which
// are gone when it ends.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

func main() {
	meshInit := flag.String("mesh-init", "bin/mesh-init", "the mesh-init to run")
	flag.Parse()
	if err := demo(os.Stdout, *meshInit); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// config is what the flags given to mesh-init come to.
func config() (intercept.Config, []string) {
	c := intercept.Default()
	c.DNS.Mode = intercept.DNSAll
	c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(5432)}
	return c, []string{"--dns", "all", "--outbound-exclude-ports", "5432"}
}

func demo(out io.Writer, meshInit string) (err error) {
	lab, err := netlab.New(netlab.Options{})
	if err != nil {
		return fmt.Errorf("%w\nthe demo needs root: sudo env \"PATH=$PATH\" make demo", err)
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
		return err
	}
	fmt.Fprintln(out, "A pod (10.244.0.5, fd00:244::5), a sidecar in it that runs as user 1337 and listens on")
	fmt.Fprintln(out, "15001 (outbound), 15006 (inbound) and 15053 (DNS), and a peer behind which every address answers.")

	c, flags := config()
	args := append([]string{"apply", "--netns", lab.Pod.Path()}, flags...)
	fmt.Fprintf(out, "\n$ mesh-init apply --netns POD %s\n", strings.Join(flags, " "))
	applied, err := exec.Command(meshInit, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", meshInit, err, applied)
	}
	fmt.Fprintf(out, "%s\n", applied)

	rs, err := intercept.Compile(c)
	if err != nil {
		return err
	}
	wrong := 0
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FLOW\tWENT\tWHY")
	all := flows()
	for _, f := range all {
		trace, err := rs.Trace(f.Packet(lab))
		if err != nil {
			return err
		}
		got, err := lab.Send(f.Flow)
		if err != nil {
			return err
		}
		why := string(trace.Rule) + ": " + trace.Reason
		if !got.Is(trace.Fate) {
			wrong++
			why = fmt.Sprintf("WRONG: the policy says %s by %s", trace.Fate, why)
		}
		fmt.Fprintf(table, "%s → %s %s\t%s\t%s\n", f.who, f.Dst, f.Protocol, where(got), why)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if wrong > 0 {
		return fmt.Errorf("%d of %d flows did not go as the policy says", wrong, len(all))
	}
	_, err = fmt.Fprintf(out, "\nAll %d flows went as the policy says.\n\n%s\n", len(all), next)
	return err
}

// next is what to do after it.
const next = `Next: bin/mesh-init explain --matrix says what becomes of all traffic, without root.
docs/quickstart.md has a real proxy beside it, and docs/getting-started.md a cluster.`

type flow struct {
	who string
	netlab.Flow
}

func flows() []flow {
	app, proxy := &intercept.Owner{UID: 1000, GID: 1000}, &intercept.Owner{UID: 1337, GID: 1337}
	out := func(who string, p intercept.Protocol, dst string, owner *intercept.Owner) flow {
		return flow{who, netlab.Flow{Protocol: p, Dst: netip.MustParseAddrPort(dst), Owner: owner}}
	}
	in := func(dst string) flow {
		return flow{"client", netlab.Flow{From: netlab.FromPeer, Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(dst)}}
	}
	passthrough := out("proxy as 127.0.0.6", intercept.TCP, "10.244.0.5:8080", proxy)
	passthrough.Src = netip.MustParseAddrPort("127.0.0.6:0")
	return []flow{
		out("app", intercept.TCP, "203.0.113.10:443", app),
		out("app", intercept.TCP, "[2001:db8::10]:443", app),
		out("proxy", intercept.TCP, "203.0.113.10:443", proxy),
		out("proxy", intercept.TCP, "[2001:db8::10]:443", proxy),
		out("app", intercept.TCP, "203.0.113.10:5432", app),
		out("app", intercept.UDP, "203.0.113.10:9999", app),
		out("app", intercept.UDP, "10.96.0.10:53", app),
		out("app", intercept.TCP, "10.96.0.10:53", app),
		out("app", intercept.UDP, "[fd00:96::a]:53", app),
		out("proxy", intercept.UDP, "10.96.0.10:53", proxy),
		out("app", intercept.TCP, "127.0.0.1:8080", app),
		out("app", intercept.TCP, "10.244.0.5:8080", app),
		out("proxy", intercept.TCP, "10.244.0.5:8080", proxy),
		passthrough,
		in("10.244.0.5:8080"),
		in("[fd00:244::5]:8080"),
		in("10.244.0.5:15021"),
		in("10.244.0.5:15008"),
	}
}

// where says in a few words who answered.
func where(d netlab.Delivery) string {
	switch d.Role {
	case netlab.RoleOutbound, netlab.RoleInbound, netlab.RoleDNS:
		return fmt.Sprintf("to the sidecar's port %d", d.Port)
	case netlab.RoleApp:
		return "straight to the app"
	case netlab.RolePeer:
		return "straight to its destination"
	}
	return d.Fate.String()
}

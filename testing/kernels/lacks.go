package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A lack is a machine that lacks something, and what mesh-init has to answer there.
type lack struct {
	release, of string
	// env is what testing/kernels/machine is told, and before a command that the machine runs first.
	env, before string
	steps       []step
}

// A step is a call of mesh-init, for a network namespace with no rules.
type step struct {
	args  string
	code  int
	words []string // it says all of them
}

// lacks are those that are tried. More are in dataplane's tests, which have system calls fail.
func lacks() []lack {
	const nft, legacy = "apply --backend nft", "apply --backend iptables-legacy"
	return []lack{
		{"bullseye", "the module nft_counter", "MACHINE_WITHOUT=nft_counter", "", []step{
			{nft, 12, []string{"expression counter", "load nft_counter"}},
			{legacy, 0, []string{"created"}}}},
		{"forky", "the module nft_redir", "MACHINE_WITHOUT=nft_redir", "", []step{
			{nft, 12, []string{"expression redir", "load nft_redir"}}}},
		{"bookworm", "the module nft_chain_nat", "MACHINE_WITHOUT=nft_chain_nat", "", []step{
			{nft, 12, []string{"chains of type nat", "load nft_chain_nat"}}}},
		{"trixie", "the modules xt_owner and xt_tcpudp", "MACHINE_WITHOUT=xt_owner xt_tcpudp", "", []step{
			{legacy, 12, []string{"match owner, match tcp", "load xt_owner, xt_tcpudp"}},
			{"apply --backend iptables-nft", 12, []string{"match owner, match tcp", "load xt_owner, xt_tcpudp"}},
			{"apply", 0, []string{"by nft"}}}},
		{"bullseye", "nf_tables", "MACHINE_WITHOUT=nf_tables", "", []step{
			{nft, 12, []string{"load the module nf_tables"}},
			{"apply", 0, []string{"by iptables-legacy"}}}},
		{"forky", "modules that can still be loaded", "", "sysctl -qw kernel.modules_disabled=1", []step{
			{nft, 12, []string{"load the module nf_tables"}}}},
		{"bookworm", "the module nf_conntrack_netlink", "MACHINE_WITHOUT=nf_conntrack_netlink", atWork, []step{
			{nft, 0, []string{"every connection that is there counts as older", "load nf_conntrack_netlink", "created"}},
			{"doctor", 0, []string{"apply does not know which", "nf_conntrack_netlink"}},
			{"watch", 10, []string{"new connections are not seen", "nf_conntrack_netlink"}}}},
		{"bookworm", "veth and sock_diag", "MACHINE_WITHOUT=veth inet_diag tcp_diag udp_diag", atWork, []step{
			{nft + " --netns pod0 && /share/bin/mesh-init verify", 18, []string{"created", "nobody listens",
				"no client outside the pod", "veth"}}}},
		{"bookworm", "IPv6", "MACHINE_APPEND=ipv6.disable=1", "", []step{
			{"apply --families dual", 12, []string{"families dual", "ipv6.disable=1", "use families auto"}},
			{nft, 0, []string{"created", "IPv4"}},
			{legacy, 0, []string{"created", "IPv4"}}}},
		{"trixie", "what lockdown forbids", "MACHINE_APPEND=lockdown=confidentiality", "", []step{
			{nft, 0, []string{"created"}},
			{legacy, 0, []string{"created"}}}},
	}
}

// atWork has the first step's namespace open a connection, which nobody answers.
const atWork = `ip netns add pod0 && ip -n pod0 link add eth0 type dummy && ip -n pod0 link set eth0 up && ip -n pod0 link set lo up &&
ip -n pod0 addr add 10.9.0.2/24 dev eth0 && ip netns exec pod0 ip neigh add 10.9.0.1 lladdr 02:00:00:00:00:01 dev eth0
ip netns exec pod0 timeout 60 bash -c '>/dev/tcp/10.9.0.1/80' 2>/dev/null &
until ip netns exec pod0 cat /proc/net/tcp | grep -q ' 0100090A:0050 02 '; do sleep 1; done`

// try boots the machine and returns what is wrong with the answers.
func (l lack) try(ctx context.Context, w work) (wrong []string, err error) {
	var commands strings.Builder
	fmt.Fprintf(&commands, "%s\n", l.before)
	for i, s := range l.steps {
		fmt.Fprintf(&commands, "ip netns add pod%d 2>/dev/null; /share/bin/mesh-init %s --netns pod%[1]d 2>&1; code=$?\n", i, s.args)
		fmt.Fprintf(&commands, "echo; echo code $code; echo %s\n", next)
	}
	kept := filepath.Join(w.out, l.release+" without "+l.of+".log")
	if said, err := os.ReadFile(kept); err == nil && len(l.judge(string(said))) == 0 {
		return nil, nil
	}
	said, _, err := w.boot(ctx, machine{release: l.release}, 10*time.Minute, commands.String(), l.env)
	if err != nil {
		return nil, err
	}
	return l.judge(said), os.WriteFile(kept, []byte(said), 0o600)
}

// next stands between what one step says and what the next does.
const next = "--next--"

// judge returns what is wrong with what the steps said.
func (l lack) judge(said string) (wrong []string) {
	parts := strings.Split(said, next)
	for i, s := range l.steps {
		part := ""
		if i < len(parts)-1 {
			part = parts[i]
		}
		ok := strings.Contains(part, fmt.Sprintf("\ncode %d\n", s.code))
		for _, word := range s.words {
			ok = ok && strings.Contains(part, word)
		}
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s without %s: mesh-init %s should end with %d and say %q, but:\n%s",
				l.release, l.of, s.args, s.code, s.words, strings.TrimSpace(part)))
		}
	}
	return wrong
}

// tryLacks tries those of the releases that are asked for.
func (w work) tryLacks(ctx context.Context) (wrong []string, err error) {
	for _, l := range lacks() {
		if !w.wants(l.release) {
			continue
		}
		bad, err := l.try(ctx, w)
		if err != nil {
			return nil, err
		}
		verdict := "ok"
		if len(bad) > 0 {
			verdict = "wrong"
		}
		fmt.Printf("%-16s without %s: %s\n", l.release, l.of, verdict)
		wrong = append(wrong, bad...)
	}
	return wrong, nil
}

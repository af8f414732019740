//go:build linux

package dataplane

import (
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/ipset"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// excluding has a list of networks, of which half are IPv6's, and one of each is where a lab has a server.
func excluding(networks int) intercept.Config {
	c := intercept.Default()
	c.Outbound.ExcludeCIDRs = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8::/64")}
	for i := range uint32(networks-2) / 2 {
		v4 := [4]byte(binary.BigEndian.AppendUint32(nil, 10<<24|i<<9))
		v6 := [16]byte{0xfd, 0xaa, byte(i >> 8), byte(i)}
		c.Outbound.ExcludeCIDRs = append(c.Outbound.ExcludeCIDRs, netip.PrefixFrom(netip.AddrFrom4(v4), 24),
			netip.PrefixFrom(netip.AddrFrom16(v6), 33))
	}
	return c
}

// setsIn are the sets of ours in a namespace, with how many rules ask each.
func setsIn(t *testing.T, ns *netlab.Namespace) (all map[string]int) {
	t.Helper()
	err := ns.Do(func() error {
		c, err := ipset.Open()
		if err != nil {
			return err
		}
		all, err = c.References()
		return errors.Join(err, c.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// leave makes a set, as somebody does who is killed before the rules that would ask it.
func leave(t *testing.T, ns *netlab.Namespace) {
	t.Helper()
	err := ns.Do(func() error {
		c, err := ipset.Open()
		if err != nil {
			return err
		}
		_, err = c.Make(ipset.OfPorts(ruleset.Ports{ruleset.Port(7)}))
		return errors.Join(err, c.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLongLists: what is on a list of 5,000 networks passes, and what is not on it is captured, by every backend, one
// after the other. The sets of one are gone when another has taken its place, and so is what somebody has left.
func TestLongLists(t *testing.T) {
	needPrograms(t)
	lab := newLab(t)
	c := excluding(5000)
	pod := Pod{NetNS: lab.Pod.Path()}
	walk := []Backend{BackendIPTablesNFT, BackendIPTablesLegacy, BackendIPTablesNFT, BackendNFT, BackendIPTablesLegacy,
		BackendNFT}
	for i, b := range walk {
		pod.Backend = b
		leave(t, lab.Pod)
		r, err := pod.Apply(t.Context(), c)
		if err != nil || r.Outcome == intercept.Unchanged || strings.Contains(strings.Join(r.Warnings, " "), "long list") {
			t.Fatalf("apply %d by %s: %+v, %v", i, b, r, err)
		}
		leave(t, lab.Pod)
		if r, err := pod.Apply(t.Context(), c); err != nil || r.Outcome != intercept.Unchanged {
			t.Fatalf("again by %s: %+v, %v", b, r, err)
		}
		if diffs, err := pod.Check(t.Context(), c); err != nil || len(diffs) > 0 {
			t.Errorf("check by %s: %v, %v", b, diffs, err)
		}
		want := 2
		if b == BackendNFT {
			want = 0
		}
		if sets := setsIn(t, lab.Pod); len(sets) != want || slices.Contains(slices.Collect(maps.Values(sets)), 0) {
			t.Errorf("%s has sets %v", b, sets)
		}
		for dst, fate := range map[string]string{
			"203.0.113.10:80": "pass", "[2001:db8::10]:80": "pass",
			"198.51.100.10:80": "redirect(15001)", "[2001:db8:9::10]:80": "redirect(15001)",
		} {
			f := netlab.Flow{Protocol: intercept.TCP, Dst: netip.MustParseAddrPort(dst),
				Owner: &intercept.Owner{UID: 1000, GID: 1000}}
			if got, err := lab.Send(f); err != nil || got.Fate.String() != fate {
				t.Errorf("%s: %s: %s, %v", b, dst, got, err)
			}
		}
		status, err := pod.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var counted uint64
		for _, c := range status.Counters {
			if c.Rule == "O10.cidrs" && c.Chain == "output" {
				counted += c.Packets
			}
		}
		if counted != 2 {
			t.Errorf("%s: O10.cidrs has counted %d: %+v", b, counted, status.Counters)
		}
	}
	leave(t, lab.Pod)
	if removed, err := (Pod{NetNS: lab.Pod.Path()}).Remove(t.Context()); err != nil || !removed {
		t.Errorf("%t, %v", removed, err)
	}
	leave(t, lab.Pod)
	if removed, err := (Pod{NetNS: lab.Pod.Path()}).Remove(t.Context()); err != nil || !removed {
		t.Errorf("where there is a set alone: %t, %v", removed, err)
	}
	if sets := setsIn(t, lab.Pod); len(sets) > 0 {
		t.Errorf("left: %v", sets)
	}
}

// TestSetThatOthersAsk: a rule of nobody that the backends know asks a set of ours. The rest is removed, and the error
// names the set.
func TestSetThatOthersAsk(t *testing.T) {
	needPrograms(t)
	lab, c := newLab(t), excluding(200)
	pod := Pod{NetNS: lab.Pod.Path(), Backend: BackendIPTablesLegacy}
	if _, err := pod.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	set := slices.Sorted(maps.Keys(setsIn(t, lab.Pod)))[0]
	run(t, pod.NetNS, "iptables-nft", "-t", "security", "-A", "OUTPUT", "-m", "set", "--match-set", set, "dst", "-j", "ACCEPT")
	pod.Backend = BackendNFT // it leaves what it cannot take out
	if _, err := pod.Apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	removed, err := (Pod{NetNS: pod.NetNS}).Remove(t.Context())
	if err == nil || !removed || !strings.Contains(err.Error(), set) {
		t.Errorf("%t, %v", removed, err)
	}
	run(t, pod.NetNS, "iptables-nft", "-t", "security", "-F")
	if removed, err := (Pod{NetNS: pod.NetNS}).Remove(t.Context()); err != nil || !removed {
		t.Errorf("%t, %v", removed, err)
	}
}

// TestKernelWithoutSets: where the kernel has no netlink for netfilter, and so no sets, long lists are rules. Apply and
// doctor say so, with the modules that would help.
func TestKernelWithoutSets(t *testing.T) {
	p, lab := surroundings{refusals: []refusal{noNFTables()}}.start(t), newLab(t)
	target, c := Pod{NetNS: lab.Pod.Path()}, excluding(200)
	r, err := p.ask(request{Verb: "probe", Pod: target, Config: &c})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range r.Report.Backends {
		for _, c := range d.Capabilities {
			if d.Backend == BackendIPTablesLegacy && c.Name == longLists && (c.State != StateOK || !c.Needed ||
				!strings.HasPrefix(c.Cause, "as a rule for each item: ") || !slices.Contains(c.Modules, "ip_set_hash_net")) {
				t.Errorf("%+v", c)
			}
		}
	}
	if !slices.Contains(r.Report.Modules, "ip_set_hash_net") {
		t.Errorf("modules %v", r.Report.Modules)
	}
	r, err = p.ask(request{Verb: "apply", Pod: target, Config: &c})
	if err != nil || !slices.ContainsFunc(r.Result.Warnings, func(w string) bool {
		return strings.HasPrefix(w, "a long list is a rule for each item") && strings.Contains(w, "ip_set_hash_net")
	}) {
		t.Errorf("%+v, %v", r.Result, err)
	}
	if r, err := p.ask(request{Verb: "check", Pod: target, Config: &c}); err != nil || len(r.Differences) > 0 {
		t.Errorf("%v, %v", r.Differences, err)
	}
	// Who has sets finds the same in force.
	target.Backend = BackendIPTablesLegacy
	if diffs, err := target.Check(t.Context(), c); err != nil || len(diffs) > 0 {
		t.Errorf("%v, %v", diffs, err)
	}
	if r, err := target.Apply(t.Context(), c); err != nil || r.Outcome != intercept.Unchanged {
		t.Errorf("%+v, %v", r, err)
	}
	if sets := setsIn(t, lab.Pod); len(sets) > 0 {
		t.Errorf("%v", sets)
	}
}

// TestDoctorOfSets: doctor says that long lists are sets, by which both variants of iptables write.
func TestDoctorOfSets(t *testing.T) {
	needPrograms(t)
	lab := netlab.NewT(t, netlab.Options{})
	report, err := (Pod{NetNS: lab.Pod.Path()}).Probe(t.Context(), excluding(200))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, d := range report.Backends {
		for _, c := range d.Capabilities {
			if c.Name != longLists {
				continue
			}
			seen++
			want := map[Backend]string{BackendNFT: "", BackendIPTablesNFT: "as sets", BackendIPTablesLegacy: "as sets"}
			if c.State != StateOK || !c.Needed || c.Cause != want[d.Backend] || len(c.Modules) > 0 {
				t.Errorf("%s: %+v", d.Backend, c)
			}
		}
	}
	if seen != 3 || !iptables.IsLong(ruleset.Dst(long())) {
		t.Errorf("%d backends", seen)
	}
	if sets := setsIn(t, lab.Pod); len(sets) > 0 {
		t.Errorf("doctor has left %v", sets)
	}
}

//go:build linux

package iptables

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// TestFlagInTheKernel: where rules take a flag, each counts the packets that it decides about, whatever mark they have,
// and they keep it.
func TestFlagInTheKernel(t *testing.T) {
	variants(t, func(t *testing.T, v Variant) {
		s := newSite(t, Options{Variant: v})
		for _, command := range []string{"link set lo up", "route add local 10.0.0.0/8 dev lo",
			"route add local fd00::/8 dev lo"} {
			s.run(t, "", "ip", strings.Fields(command)...)
		}
		marks := []uint32{0, 7, flagBit, flagBit | 7}
		theirs := "*filter\n"
		for _, mark := range marks {
			theirs += fmt.Sprintf("-A OUTPUT -p udp -m udp --dport 9999 -m mark --mark %#x\n", mark)
		}
		s.restore(t, theirs+"COMMIT\n")
		c := intercept.Default()
		c.Outbound.Exclude = owned(12, 20, 20)
		rs := compileConfig(t, c)
		s.mustApply(t, rs, ruleset.Created)
		if text := s.rules(t); strings.Contains(text, "--set-xmark 0x80000000/0x0") != (v == NFT) {
			t.Fatalf("a flag is where there should be none, or the other way round:\n%s", text)
		}
		sent := 0
		send := func(user uint32, mark uint32, to netip.Addr) {
			t.Helper()
			domain, sa := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: 9999, Addr: to.As16()})
			if to.Is4() {
				domain, sa = unix.AF_INET, &unix.SockaddrInet4{Port: 9999, Addr: to.As4()}
			}
			fd, err := s.Socket(domain, unix.SOCK_DGRAM, &intercept.Owner{UID: user, GID: user})
			if err == nil {
				err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)),
					unix.Sendto(fd, []byte("x"), 0, sa), unix.Close(fd))
			}
			if err != nil {
				t.Fatal(err)
			}
			sent++
		}
		want := map[string]uint64{}
		for _, k := range []int{0, 5, 11} {
			e := c.Outbound.Exclude[k]
			for _, i := range []int{0, 1, 38, 39} { // of each family the first and the last
				to := e.CIDRs[i].Addr()
				for _, mark := range marks {
					send(e.UIDs[i/2].First, mark, to)
					want[fmt.Sprintf("%s O5.exclude.%d", ruleset.FamilyOf(to), k+1)]++
					send(e.UIDs[i/2].First+1, mark, to)
					send(e.UIDs[i/2].First, mark, to.Next())
				}
			}
		}
		counters, err := s.counters()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range counters {
			key := c.Family + " " + string(c.Rule)
			if c.Chain == "output" && strings.HasPrefix(string(c.Rule), "O5.exclude.") && c.Packets != want[key] {
				t.Errorf("%s has counted %d packets, want %d", key, c.Packets, want[key])
			}
		}
		kept := 0
		for line := range strings.Lines(s.saved(t)) {
			var packets int
			if strings.Contains(line, "--dport 9999") {
				if _, err := fmt.Sscanf(line, "[%d:", &packets); err != nil || packets != sent/8 {
					t.Errorf("of %d packets, an eighth has each mark in each family; counted: %s", sent, line)
				}
				kept += packets
			}
		}
		if kept != sent || sent == 0 {
			t.Errorf("%d of %d packets kept their mark", kept, sent)
		}
		s.mustBe(t, rs)
		s.mustApply(t, rs, ruleset.Unchanged)
		s.mustRemove(t)
	})
}

// TestDepthInTheKernel: the kernel takes chains that are as deep as may be, and none that are deeper.
func TestDepthInTheKernel(t *testing.T) {
	t.Parallel()
	require(t, NFT)
	s := newSite(t, Options{Variant: NFT})
	s.mustApply(t, inARow(maxDepth-1), ruleset.Created)
	s.mustRemove(t)
	var refused *ProgramError
	if _, err := s.apply(inARow(maxDepth)); !errors.Is(err, ruleset.ErrUnsupported) || errors.As(err, &refused) {
		t.Errorf("Apply: %v", err)
	}
	inputs, err := Render(inARow(maxDepth), Options{Variant: Legacy})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("iptables-nft-restore", "--noflush")
	cmd.Stdin = strings.NewReader(inputs[0].Text)
	if err := s.Start(cmd, nil); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Errorf("the kernel takes chains that are %d deep", maxDepth+1)
	}
}

//go:build linux

package dataplane

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
)

// TestChoose: what is chosen, why, and what was looked at on the way.
func TestChoose(t *testing.T) {
	ok := func(b Backend) Finding { return Finding{Backend: b, State: StateOK, Reason: backendOf(b).praise} }
	unknown := func(b Backend) Finding { return Finding{Backend: b, State: StateUnknown, Reason: "not tried"} }
	no := func(b Backend) Finding { return missing(b, fmt.Errorf("%w for %s", intercept.ErrUnsupported, b)) }
	type found map[Backend]func(Backend) Finding
	tests := []struct {
		want   Backend
		found  found
		choice Backend
		reason string // or of the error
		asked  int
	}{
		{"", found{BackendNFT: ok}, BackendNFT, "netlink needs no program", 1},
		{BackendAuto, found{BackendNFT: ok}, BackendNFT, "netlink needs no program", 1},
		{BackendAuto, found{BackendNFT: unknown}, BackendNFT, "not tried", 1},
		{BackendAuto, found{BackendNFT: no, BackendIPTablesNFT: ok}, BackendIPTablesNFT,
			"after nft was found to be unable: the kernel lacks support for nft", 2},
		{BackendAuto, found{BackendNFT: no, BackendIPTablesNFT: no, BackendIPTablesLegacy: unknown}, BackendIPTablesLegacy,
			"after iptables-nft was found to be unable", 3},
		{BackendAuto, found{BackendNFT: no, BackendIPTablesNFT: no, BackendIPTablesLegacy: no}, "",
			"no backend works here: backend nft: the kernel lacks support for nft; backend iptables-nft: the kernel lacks " +
				"support for iptables-nft; backend iptables-legacy", 3},
		{BackendIPTables, found{BackendIPTablesNFT: ok}, BackendIPTablesNFT, "iptables-nft works here", 1},
		{BackendIPTables, found{BackendIPTablesNFT: no, BackendIPTablesLegacy: ok}, BackendIPTablesLegacy,
			"after iptables-nft", 2},
		// A backend given by name is never replaced.
		{BackendNFT, found{BackendNFT: no, BackendIPTablesNFT: ok}, "", "backend nft: the kernel lacks support for nft", 1},
		{BackendIPTablesNFT, found{BackendIPTablesNFT: no, BackendNFT: ok}, "", "backend iptables-nft", 1},
		{BackendIPTablesLegacy, found{BackendIPTablesLegacy: unknown}, BackendIPTablesLegacy, "asked for", 1},
	}
	for _, tt := range tests {
		choice, err := choose(tt.want, func(b Backend) Finding { return tt.found[b](b) })
		got := choice.Reason
		if err != nil {
			got = err.Error()
			if !errors.Is(err, intercept.ErrUnsupported) {
				t.Errorf("%q: %v is no ErrUnsupported", tt.want, err)
			}
		}
		if choice.Backend != tt.choice || (err != nil) != (tt.choice == "") || !strings.Contains(got, tt.reason) ||
			len(choice.Findings) != tt.asked {
			t.Errorf("%q: %+v, %v; want %q because %q", tt.want, choice, err, tt.choice, tt.reason)
		}
	}
	for _, want := range []Backend{"ebpf", "iptables-nf"} {
		if _, err := choose(want, nil); err == nil ||
			!strings.Contains(err.Error(), fmt.Sprintf("%q is not one of auto, nft, iptables, iptables-nft, iptables-legacy",
				want)) {
			t.Errorf("an unknown backend: %v", err)
		}
	}
}

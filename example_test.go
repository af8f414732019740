package intercept_test

import (
	"fmt"
	"net/netip"

	"github.com/mesh-intercept/intercept"
)

// What happens to a packet under a configuration, and why, without a kernel.
func ExampleRuleset_Trace() {
	config := intercept.Default()
	config.Outbound.ExcludeCIDRs = intercept.CIDRs{netip.MustParsePrefix("10.0.0.0/8")}
	rules, err := intercept.Compile(config)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, dst := range []string{"203.0.113.10:443", "10.1.2.3:443"} {
		trace, err := rules.Trace(intercept.Packet{
			Hook:      intercept.Output,
			Protocol:  intercept.TCP,
			Src:       netip.MustParseAddrPort("10.244.0.5:40000"),
			Dst:       netip.MustParseAddrPort(dst),
			Interface: "eth0",
			Owner:     &intercept.Owner{UID: 1000, GID: 1000},
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: %s by %s, %s\n", dst, trace.Fate, trace.Rule, trace.Reason)
	}
	// Output:
	// 203.0.113.10:443: redirect(15001) by O12, every destination is included
	// 10.1.2.3:443: pass by O10.cidrs, excluded destination
}

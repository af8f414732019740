package nft_test

import (
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/nft"
)

// The rules as nft -f reads them. It takes no privilege, and no nft.
func ExampleRender() {
	config := intercept.Default()
	config.Inbound.Mode, config.Backstop = intercept.InboundOff, intercept.BackstopOff
	config.Outbound.IncludeCIDRs, config.Outbound.IncludePorts = nil, intercept.Ports{intercept.Port(443)}
	rules, err := intercept.Compile(config)
	if err != nil {
		fmt.Println(err)
		return
	}
	text, err := nft.Render(rules)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, chains, _ := strings.Cut(text, "\n\n") // before it: the table, and the fingerprint of its content
	fmt.Print(chains)
	// Output:
	// 	chain output {
	// 		type nat hook output priority -199; policy accept;
	// 		meta nfproto ipv4 oif == "lo" ip saddr 127.0.0.6 counter return comment "O2: the proxy's passthrough source"
	// 		meta nfproto ipv6 oif == "lo" ip6 saddr ::6 counter return comment "O2: the proxy's passthrough source"
	// 		meta skuid 1337 counter return comment "O4.uid: from the proxy (by user)"
	// 		meta skgid 1337 counter return comment "O4.gid: from the proxy (by group)"
	// 		oif == "lo" counter return comment "O6: inside the pod"
	// 		meta nfproto ipv4 ip daddr 127.0.0.1 counter return comment "O9: the exempt loopback range"
	// 		meta nfproto ipv6 ip6 daddr ::1 counter return comment "O9: the exempt loopback range"
	// 		meta l4proto 6 tcp flags & 0x17 == 0x2 th dport 443 tcp option mptcp missing counter redirect to :15001 comment "O11: included port"
	// 		meta l4proto 6 tcp flags & 0x17 == 0x2 th dport 443 tcp option mptcp exists meta skuid <= 4294967294 counter redirect to :15001 comment "O11.mptcp: included port"
	// 		counter return comment "O14: not included"
	// 	}
	// }
}

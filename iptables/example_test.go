package iptables_test

import (
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/iptables"
)

// The rules as iptables-restore --noflush reads them. It takes no privilege, and
// no iptables.
func ExampleRender() {
	config := intercept.Default()
	config.Families = intercept.FamiliesIPv4
	config.Inbound.Mode = intercept.InboundOff
	rules, err := intercept.Compile(config)
	if err != nil {
		fmt.Println(err)
		return
	}
	inputs, err := iptables.Render(rules, iptables.Options{Variant: iptables.Legacy})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, input := range inputs {
		fmt.Println(input.Program(), "reads, among others:")
		for line := range strings.Lines(input.Text) {
			if strings.HasPrefix(line, "-A MESH_OUTPUT -m owner --uid-owner") || strings.HasPrefix(line, "-I ") {
				fmt.Print(line)
			}
		}
	}
	// Output:
	// iptables-restore reads, among others:
	// -I OUTPUT 1 -m comment --comment "Intercept" -j MESH_FILTER_OUTPUT
	// -A MESH_OUTPUT -m owner --uid-owner 1337 -m comment --comment "O4.uid: from the proxy (by user)" -j RETURN
	// -I OUTPUT 1 -m comment --comment "Intercept" -j MESH_OUTPUT
}

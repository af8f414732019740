package trial

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/verify"
)

// ServedError says that somebody waits already at a port where a stand-in is to listen.
type ServedError struct {
	Protocol ruleset.Protocol
	At       netip.AddrPort
	Holder   verify.Holder
}

// Error names the port, who has it, and the remedy.
func (e ServedError) Error() string {
	return fmt.Sprintf("%s already listens at %s over %s: run verify without --listen, which tries who is there", e.Holder,
		e.At, strings.ToUpper(e.Protocol.String()))
}

package trial

import (
	"fmt"
	"net/netip"
)

// AstrayError reports a connection that did not come to where somebody listened for it.
type AstrayError struct {
	// To is where it was opened to.
	To netip.AddrPort
	// Err says what became of it.
	Err error
}

func (e AstrayError) Error() string {
	return fmt.Sprintf("a connection to %s was not captured: %v", e.To, e.Err)
}

func (e AstrayError) Unwrap() error { return e.Err }

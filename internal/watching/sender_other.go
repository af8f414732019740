//go:build !linux

package watching

import "github.com/mesh-intercept/intercept/internal/conntrack"

func senderOf(conntrack.Ends, bool) *Sender { return nil }

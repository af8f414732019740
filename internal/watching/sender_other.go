//go:build !linux

package watching

import "github.com/mesh-intercept/intercept/internal/nfevents"

func senderOf(nfevents.Ends, bool) *Sender { return nil }

// Package hairpin sees whether rules are in force as a process without any privilege can: where it runs as the proxy, a
// call of its own to the pod has to come back to the proxy's inbound port.
package hairpin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mesh-intercept/intercept"
)

// ErrNotCaptured reports that a call did not come to the inbound port in all the time.
var ErrNotCaptured = errors.New("interception does not work")

// wait is how long one call, or its arrival, is waited for.
const wait = 500 * time.Millisecond

// Verify calls a port of the pod's own addresses, one of each family that is captured, until the calls come to the
// inbound port or the context ends: rules may be on their way. It listens at both ports; where the inbound port is
// taken, by the proxy, it is enough that the call does not come where it was sent.
//
// In mode tproxy a listener without privilege gets nothing. There it is enough that the call is dropped.
func Verify(ctx context.Context, c intercept.Config, own []netip.Addr, port uint16) error {
	uid, gid := uint32(os.Geteuid()), uint32(os.Getegid())
	if !c.Proxy.UIDs.Contains(uid) && !c.Proxy.GIDs.Contains(gid) {
		return fmt.Errorf("%w, or nobody can see it: user %d, group %d, is not the proxy, and has no privilege; run it as "+
			"the proxy, user %s", ErrNotCaptured, uid, gid, c.Proxy.UIDs)
	}
	called := false
	for _, f := range []intercept.Family{intercept.IPv4, intercept.IPv6} {
		i := slices.IndexFunc(own, func(a netip.Addr) bool {
			return a.IsGlobalUnicast() && !slices.Contains(c.PassthroughSources, a) && intercept.FamilyOf(a) == f &&
				captures(c.Families, f)
		})
		if i < 0 {
			continue
		}
		called = true
		if err := verify(ctx, c, netip.AddrPortFrom(own[i], port)); err != nil {
			return err
		}
	}
	if !called {
		return fmt.Errorf("%w: the pod has no address of a family that is captured", ErrNotCaptured)
	}
	return nil
}

func captures(families intercept.Families, f intercept.Family) bool {
	switch families {
	case intercept.FamiliesIPv4:
		return f == intercept.IPv4
	case intercept.FamiliesIPv6:
		return f == intercept.IPv6
	case intercept.FamiliesAuto, intercept.FamiliesDual:
	}
	return true
}

func localhost(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

//go:build linux

package traffic

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestMarkCannotBeTaken: where the proxy is known by its mark, a process
// without capabilities cannot pass for it, whoever it is, the proxy's former
// user included. With the mark a connection passes.
func TestMarkCannotBeTaken(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab, b := labWithSidecar(t, w)
		c := intercept.Default()
		c.Proxy = intercept.Proxy{Mark: intercept.Mark{Value: 0x539, Mask: 0xfff}}
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, b, rs)
		for _, owner := range []*intercept.Owner{app, proxy, {}} {
			for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
				fd, err := lab.Pod.Socket(domain, unix.SOCK_STREAM, owner)
				if err != nil {
					t.Fatal(err)
				}
				defer unix.Close(fd)
				set := func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x539) }
				err = lab.Pod.Do(func() error { return withoutCapabilities(set) })
				if !errors.Is(err, unix.EPERM) {
					t.Errorf("%+v without capabilities sets the mark: %v", *owner, err)
				}
			}
			for _, dst := range outside {
				f := netlab.Flow{Protocol: intercept.TCP, Dst: dst, Owner: owner}
				expectFate(t, lab, f, intercept.RedirectedTo(15001))
				f.Mark = 0x539
				expectFate(t, lab, f, intercept.Fate{})
			}
		}
	})
}

// withoutCapabilities runs f on this thread without CAP_NET_ADMIN and
// CAP_NET_RAW. Either is enough to set a mark (SO_MARK in socket(7)).
func withoutCapabilities(f func() error) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var all [2]unix.CapUserData
	if err := unix.Capget(&header, &all[0]); err != nil {
		return err
	}
	less := all
	less[0].Effective &^= 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW
	if err := unix.Capset(&header, &less[0]); err != nil {
		return err
	}
	return errors.Join(f(), unix.Capset(&header, &all[0]))
}

// TestInitContainer: an init container that runs before the proxy has a user
// of its own that is excluded. What it does passes, lookups included, while
// the app's is captured. It is not taken for the proxy.
func TestInitContainer(t *testing.T) {
	each(t, func(t *testing.T, w way) {
		lab, b := labWithSidecar(t, w)
		c := intercept.Default()
		c.DNS.Mode = intercept.DNSAll
		c.Outbound.UDP = intercept.TreatmentReject
		c.Outbound.ExcludeUIDs = intercept.IDs{{First: 2000, Last: 2009}}
		rs, err := intercept.Compile(c)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, b, rs)
		first, last, after := &intercept.Owner{UID: 2000, GID: 1000}, &intercept.Owner{UID: 2009, GID: 2000},
			&intercept.Owner{UID: 2010, GID: 2000}
		for i, dst := range outside {
			tcp := netlab.Flow{Protocol: intercept.TCP, Dst: dst}
			udp := netlab.Flow{Protocol: intercept.UDP, Dst: netip.AddrPortFrom(dst.Addr(), 9999)}
			lookup := netlab.Flow{Protocol: intercept.UDP, Dst: netip.AddrPortFrom(dst.Addr(), 53)}
			lookupTCP := netlab.Flow{Protocol: intercept.TCP, Dst: lookup.Dst}
			self := netlab.Flow{Protocol: intercept.TCP, Dst: pods[i]}
			rejected := intercept.Fate{Action: intercept.Rejected}
			for _, e := range []struct {
				flow           netlab.Flow
				excluded, rest intercept.Fate
			}{
				{tcp, intercept.Fate{}, intercept.RedirectedTo(15001)},
				{udp, intercept.Fate{}, rejected},
				{lookup, intercept.Fate{}, intercept.RedirectedTo(15053)},
				{lookupTCP, intercept.Fate{}, intercept.RedirectedTo(15053)},
				{self, intercept.Fate{}, intercept.Fate{}}, // to the app, by whoever is not the proxy
			} {
				for _, owner := range []*intercept.Owner{first, last} {
					e.flow.Owner = owner
					expectFate(t, lab, e.flow, e.excluded)
				}
				for _, owner := range []*intercept.Owner{app, after} {
					e.flow.Owner = owner
					expectFate(t, lab, e.flow, e.rest)
				}
			}
			self.Owner = proxy
			expectFate(t, lab, self, intercept.RedirectedTo(15006))
		}
	})
}

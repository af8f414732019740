//go:build linux

package links

import (
	"fmt"
	"net/netip"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestList: names, other names and addresses are those of the thread's namespace.
func TestList(t *testing.T) {
	netlab.Require(t)
	netlab.RequireProgram(t, "ip")
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var found []Link
	err = ns.Do(func() (err error) {
		cmd := exec.Command("sh", "-ec", `
			ip link set lo up
			ip link add eth0 type veth peer name br-7
			ip link property add dev eth0 altname enp0s3 altname a-name-that-is-longer-than-sixteen
			ip addr add 10.0.0.5/24 dev eth0
			ip addr add 10.0.0.6 peer 10.0.0.7 dev eth0
			ip -6 addr add 2001:db8::5/64 dev eth0 nodad
			ip -6 addr add 2001:db8::6 peer 2001:db8::7 dev eth0 nodad`)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s", out)
			return err
		}
		found, err = List()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]Link{}
	for _, l := range found {
		byName[l.Name] = l
	}
	addrs := func(all ...string) (list []netip.Addr) {
		for _, a := range all {
			list = append(list, netip.MustParseAddr(a))
		}
		return list
	}
	want := map[string]Link{
		"lo":   {Name: "lo", Up: true, Addrs: addrs("127.0.0.1", "::1")},
		"br-7": {Name: "br-7"},
		"eth0": {Name: "eth0", AltNames: []string{"enp0s3", "a-name-that-is-longer-than-sixteen"},
			Addrs: addrs("10.0.0.5", "10.0.0.6", "2001:db8::6", "2001:db8::5")},
	}
	if diff := cmp.Diff(want, byName, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("-expected +found\n%s", diff)
	}
}

// TestInterrupted: a listing that a change interrupts is made again. The kernel
// sends many interfaces in several parts.
func TestInterrupted(t *testing.T) {
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	add := func(name string) error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"})
	}
	err = ns.Do(func() error {
		for i := range 100 {
			if err := add(fmt.Sprintf("d%d", i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var changer sync.WaitGroup
	changer.Go(func() {
		err := ns.Do(func() error {
			for {
				err := add("more")
				if err == nil {
					err = netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "more"}})
				}
				if err != nil {
					return err
				}
				select {
				case <-done:
					return nil
				case <-time.After(2 * time.Millisecond):
				}
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
	err = ns.Do(func() error {
		for range 100 {
			all, err := List()
			if err != nil {
				return err
			}
			if len(all) < 201 {
				t.Errorf("%d interfaces", len(all))
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	close(done)
	changer.Wait()
}

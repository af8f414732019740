package links

import (
	"net/netip"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

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
		"lo":   {Name: "lo", Addrs: addrs("127.0.0.1", "::1")},
		"br-7": {Name: "br-7"},
		"eth0": {Name: "eth0", AltNames: []string{"enp0s3", "a-name-that-is-longer-than-sixteen"},
			Addrs: addrs("10.0.0.5", "10.0.0.6", "2001:db8::6", "2001:db8::5")},
	}
	if diff := cmp.Diff(want, byName, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("-expected +found\n%s", diff)
	}
}

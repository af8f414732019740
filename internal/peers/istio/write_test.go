package istio_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/peers/istio"
	"github.com/mesh-intercept/intercept/testing/gen"
)

// TestWrite: the command line that is the nearest to a configuration, and in what it asks for something else.
func TestWrite(t *testing.T) {
	// What it always asks for, and has no flag for.
	always := []string{"inbound.captureForwarded"}
	for name, tc := range map[string]struct {
		change    func(*intercept.Config)
		want      string
		otherwise []string
	}{
		"default": {func(*intercept.Config) {}, "-b * -d 15020,15021,15090 -i * --dual-stack", always},
		"its own": {func(c *intercept.Config) { c.Inbound.CaptureForwarded = true },
			"-b * -d 15020,15021,15090 -i * --dual-stack", nil},
		"ports and networks": {func(c *intercept.Config) {
			c.Inbound.CaptureForwarded = true
			c.Outbound.ExcludePorts = intercept.Ports{intercept.Port(22), {First: 8000, Last: 8010}}
			c.Outbound.IncludeCIDRs, _ = intercept.ParseCIDRs("10.0.0.0/8,fd00::/8")
			c.Outbound.ExcludeCIDRs, _ = intercept.ParseCIDRs("10.9.0.0/16")
			c.Inbound.IncludePorts, c.Inbound.ExcludePorts = intercept.Ports{intercept.Port(80)}, nil
			c.ExcludeInterfaces = []string{"net*"}
			c.Proxy.GIDs = intercept.IDs{intercept.ID(1)}
			c.Outbound.ExcludeGIDs = intercept.IDs{intercept.ID(7)}
			c.DNS.Mode, c.Families = intercept.DNSAll, intercept.FamiliesIPv4
		}, "ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE=7 -u 1337 -g 1 -b 80 -i 10.0.0.0/8,fd00::/8 -x 10.9.0.0/16 " +
			"-o 22,8000-8010 -c net+ --redirect-dns --capture-all-dns", nil},
		"tproxy": {func(c *intercept.Config) {
			c.Inbound.Mode, c.Inbound.CaptureForwarded, c.TunnelPort = intercept.InboundTProxy, true, 15009
		}, "-e 15009 -m TPROXY -t 1337 -r 133 -b * -d 15020,15021,15090 -i * --dual-stack", nil},
		"without a flag": {func(c *intercept.Config) {
			c.Outbound.UDP, c.Backstop = intercept.TreatmentReject, intercept.BackstopOff
			c.Outbound.ExcludeUIDs = intercept.IDs{intercept.ID(5)}
		}, "-b * -d 15020,15021,15090 -i * --dual-stack",
			[]string{"backstop", "inbound.captureForwarded", "outbound.excludeUIDs", "outbound.udp"}},
	} {
		c := intercept.Default()
		tc.change(&c)
		l, err := istio.Write(c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := strings.Join(append(l.Env, l.Args...), " "); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
		slices.Sort(l.Otherwise)
		if diff := cmp.Diff(tc.otherwise, l.Otherwise); diff != "" {
			t.Errorf("%s (-):\n%s", name, diff)
		}
	}
	random := rand.New(rand.NewPCG(3, 3))
	for range 300 { // whatever is asked for, there is an answer
		if l, err := istio.Write(gen.Config(random)); err == nil && len(l.Args) == 0 {
			t.Errorf("%+v", l)
		}
	}
}

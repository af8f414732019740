//go:build linux

package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/ipset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// networks returns so many of both families.
func networks(n int) (all intercept.CIDRs) {
	for i := range n / 2 {
		for _, s := range cidr(i) {
			all = append(all, netip.MustParsePrefix(s))
		}
	}
	return all
}

// BenchmarkNewConnectionIPTables connects through the redirect by each variant of iptables, with none and with more and
// more networks excluded, in turn. The metrics x-100, x-1000 and x-5000 are the ratios of the medians of connect(2) to
// that without.
func BenchmarkNewConnectionIPTables(b *testing.B) {
	netlab.Require(b)
	for _, backend := range []dataplane.Backend{dataplane.BackendIPTablesNFT, dataplane.BackendIPTablesLegacy} {
		netlab.RequireProgram(b, string(backend)+"-restore")
		counts := []int{0, 100, 1000, 5000}
		var labs []*netlab.Lab
		for _, n := range counts {
			c := intercept.Default()
			c.Outbound.ExcludeCIDRs = networks(n)
			labs = append(labs, labWith(b, func(l *netlab.Lab) error {
				_, err := dataplane.Pod{NetNS: l.Pod.Path(), Backend: backend}.Apply(b.Context(), c)
				return err
			}))
		}
		for _, dst := range []string{"203.0.113.10:80", "[2001:db8::10]:80"} {
			dst := netip.MustParseAddrPort(dst)
			b.Run(fmt.Sprintf("%s/%s", backend, intercept.FamilyOf(dst.Addr())), func(b *testing.B) {
				took := make([][]time.Duration, len(labs))
				for b.Loop() {
					for i, lab := range labs {
						took[i] = append(took[i], connect(b, lab, dst))
					}
				}
				b.ReportMetric(float64(median(took[0]).Nanoseconds()), "ns/connect")
				for i, n := range counts[1:] {
					b.ReportMetric(float64(median(took[i+1]))/float64(median(took[0])), fmt.Sprint("x-", n))
				}
			})
		}
	}
}

// BenchmarkLongListsIPTables applies 5,000 excluded networks by each variant of iptables, in turn with one run of
// iptables-restore of the same rules of IPv4, in a namespace that has the same sets. The metric x-restore is the ratio of
// the medians: of a first apply, and of one that changes nothing.
func BenchmarkLongListsIPTables(b *testing.B) {
	netlab.Require(b)
	dir := b.TempDir()
	meshInit, many := filepath.Join(dir, "mesh-init"), filepath.Join(dir, "many.yaml")
	programs(b, dir)
	if err := os.WriteFile(many, []byte("outbound: {excludeCIDRs: ["+cidrText(5000)+"]}\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	for _, variant := range []string{"nft", "legacy"} {
		netlab.RequireProgram(b, "iptables-"+variant+"-restore")
		apply := func(ns *netlab.Namespace) time.Duration {
			return process(b, ns, meshInit, "apply", "--backend", "iptables-"+variant, "--config", many)
		}
		var text strings.Builder
		ns, err := netlab.NewNamespace()
		if err != nil {
			b.Fatal(err)
		}
		apply(ns)
		save := exec.Command("iptables-" + variant + "-save")
		save.Stdout = &text
		timed(b, ns, save)
		if err := ns.Close(); err != nil {
			b.Fatal(err)
		}
		restore := func(ns *netlab.Namespace) time.Duration {
			err := ns.Do(func() error {
				c, err := ipset.Open()
				if err == nil {
					_, err = c.Make(ipset.Addresses(intercept.IPv4, networks(5000).Of(intercept.IPv4)))
				}
				return errors.Join(err, c.Close())
			})
			if err != nil {
				b.Fatal(err)
			}
			cmd := exec.Command("iptables-"+variant+"-restore", "--noflush")
			cmd.Stdin = strings.NewReader(text.String())
			return timed(b, ns, cmd)
		}
		b.Run("apply-5000-cidrs/"+variant, func(b *testing.B) { compare(b, "x-restore", apply, restore) })
		b.Run("apply-5000-cidrs-again/"+variant, func(b *testing.B) {
			compare(b, "x-restore", func(ns *netlab.Namespace) time.Duration { apply(ns); return apply(ns) }, restore)
		})
	}
}

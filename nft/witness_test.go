//go:build linux

package nft

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestWitnessLeft: what a killed verify has left on a kernel that knows no owners of tables goes with a later one, or
// with our rules. That of one at work stays.
func TestWitnessLeft(t *testing.T) {
	netlab.Require(t)
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		conn, err := Open()
		if err != nil {
			return err
		}
		defer conn.Close()
		have := func() (names []string) {
			tables, err := conn.tables(nftables.TableFamilyINet)
			if err != nil {
				t.Fatal(err)
			}
			for _, table := range tables {
				names = append(names, table.name)
			}
			slices.Sort(names)
			return names
		}
		at := func(ago time.Duration) string {
			return fmt.Sprintf("%s%x_%08x", witnessPrefix, time.Now().Add(-ago).Unix(), 7)
		}
		old, recent, others := at(time.Hour), at(time.Second), witnessPrefix+"other"
		for _, name := range []string{old, recent, others} {
			w := &Witness{conn: conn, table: name}
			if err := w.add(ruleset.PortRange{First: 1, Last: 2}, 0); err != nil {
				return err
			}
		}
		w, err := OpenWitness(ruleset.PortRange{First: 1, Last: 2})
		if err != nil {
			return err
		}
		want := []string{recent, others, w.table}
		slices.Sort(want)
		if got := have(); !slices.Equal(got, want) {
			t.Errorf("there are %s, want %s", strings.Join(got, " "), strings.Join(want, " "))
		}
		if err := w.Close(); err != nil {
			return err
		}
		if _, err := conn.Remove(t.Context()); err != nil {
			return err
		}
		if got := have(); len(got) > 0 {
			t.Errorf("there are still %s", strings.Join(got, " "))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

//go:build linux

package nft

import (
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
)

// TestTrackingGoes with its socket, so also when the process is killed; and no chain of it is anybody's concern.
func TestTrackingGoes(t *testing.T) {
	ns, conn := namespace(t)
	var tracking *Tracking
	err := ns.Do(func() (err error) {
		tracking, err = OpenTracking()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	there := func() bool {
		tables, err := conn.tables(nftables.TableFamilyINet)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(tables, func(h tableHead) bool { return h.name == tracking.Table() })
	}
	if !there() {
		t.Error("there is no table")
	}
	chains, err := conn.ForeignChains()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chains {
		if c.Base {
			t.Errorf("packets meet it: %+v", c)
		}
	}
	if err := tracking.conn.Close(); err != nil { // as the kernel does when a process ends
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); there(); {
		if time.Now().After(deadline) {
			t.Fatal("the table is left")
		}
	}
}

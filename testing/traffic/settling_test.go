//go:build linux

package traffic

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/nft"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestSettling: while the rules are new, every connection goes on that opened before them. Then those go on that are
// known, whether somebody has made them known or not.
func TestSettling(t *testing.T) {
	netlab.Require(t)
	for _, settled := range []bool{true, false} {
		lab := netlab.NewT(t, netlab.Options{})
		if _, err := lab.StartSidecar(netlab.SidecarConfig{}); err != nil {
			t.Fatal(err)
		}
		rs, err := intercept.Compile(intercept.Default())
		if err != nil {
			t.Fatal(err)
		}
		rs.Settling.For = time.Hour
		if !settled {
			rs.Settling.For = 500 * time.Millisecond
		}
		for _, dst := range outside {
			known, unknown := untranslated(t, lab, dst), untranslated(t, lab, dst)
			listed := rs
			listed.Older = []intercept.Tuple{{
				Src: known.LocalAddr().(*net.TCPAddr).AddrPort(), Dst: known.RemoteAddr().(*net.TCPAddr).AddrPort(),
			}}
			err := lab.Pod.Do(func() error {
				conn, err := nft.Open()
				if err != nil {
					return err
				}
				defer conn.Close()
				first := rs
				if !settled {
					first = listed
				}
				if _, err := conn.Apply(t.Context(), first); err != nil {
					return err
				}
				if settled {
					known.echo(t, "while the rules are new")
					unknown.echo(t, "while the rules are new")
					if err := conn.Settle(t.Context(), listed); err != nil {
						return err
					}
				}
				diffs, err := conn.Check(t.Context(), rs)
				if len(diffs) > 0 {
					t.Errorf("check: %v", diffs)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			known.echo(t, "once they have settled")
			for err == nil { // or until the time is over
				err = errors.Join(unknown.SetDeadline(time.Now().Add(5*time.Second)), write(unknown, []byte("x")))
				if err == nil {
					_, err = unknown.Read(make([]byte, 1))
				}
			}
			if !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("settled %t: what is not known hears %v", settled, err)
			}
			err = lab.Pod.Do(func() error {
				conn, err := nft.Open()
				if err != nil {
					return err
				}
				defer conn.Close()
				_, err = conn.Remove(t.Context())
				return errors.Join(err, conn.Settle(t.Context(), rs))
			})
			if !errors.Is(err, intercept.ErrNotIntercepted) {
				t.Errorf("Settle without rules: %v", err)
			}
		}
	}
}

// untranslated is a connection of the application's that opens while there are no rules.
func untranslated(t *testing.T, lab *netlab.Lab, dst netip.AddrPort) longLived {
	t.Helper()
	conn, got, err := lab.Dial(netlab.Flow{From: netlab.FromPod, Owner: app, Protocol: intercept.TCP, Dst: dst})
	if err != nil {
		t.Fatalf("%s: %s, %v", dst, got, err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := acknowledge(conn); err != nil { // what the kernel would still say is said
		t.Fatal(err)
	}
	return longLived{dst.String(), conn}
}

//go:build linux

package nft

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/ruleset"
)

// lossy is a socket on which answers to transactions get lost: before the kernel has done what it is asked, or after
// it.
type lossy struct {
	*netlink.Conn
	before, after int // how many of the next
}

func (l *lossy) Send(m netlink.Message) error {
	_, err := l.Conn.Send(m)
	return err
}

func (l *lossy) SendMessages(all []netlink.Message) error {
	switch {
	case l.before > 0:
		l.before--
		return unix.ENOBUFS
	case l.after > 0:
		l.after--
		// So many answers that nobody takes leave no room for another.
		const tooMany = 1000
		for range tooMany {
			m, err := request(unix.NFT_MSG_GETGEN, 0, unix.AF_UNSPEC, nil)
			if err == nil {
				err = l.Send(m)
			}
			if err != nil {
				return err
			}
		}
	}
	_, err := l.Conn.SendMessages(all)
	return err
}

// Receive hands on an answer as one that is whole.
func (l *lossy) Receive() ([]netlink.Message, error) {
	all, err := l.Conn.Receive()
	for i := range all {
		all[i].Header.Flags &^= netlink.Multi
	}
	return all, err
}

// small has buffers of the usual size, which overflow.
func small(t *testing.T) (*lossy, *Conn) {
	t.Helper()
	ns, _ := namespace(t)
	l := &lossy{}
	err := ns.Do(func() (err error) {
		l.Conn, err = dialWith(0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	conn := &Conn{sock: netlink.NewConn(l, 0)}
	t.Cleanup(func() { conn.Close() })
	return l, conn
}

// TestLostAnswer: what is said of a transaction is what became of it, also where the kernel's answer to it was lost.
func TestLostAnswer(t *testing.T) {
	l, conn := small(t)
	first, second := compileConfig(t, intercept.Default()), random(t, 3)
	settled := first
	settled.Settling = ruleset.Settling{For: time.Minute}
	listed := settled
	src, dst := netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort("10.0.0.2:2")
	listed.Older = []ruleset.Tuple{{Src: src, Dst: dst}}
	for _, lose := range []struct {
		when  string
		count *int
	}{{"before it is done", &l.before}, {"after it is done", &l.after}} {
		t.Run(lose.when, func(t *testing.T) {
			*lose.count = 2
			apply(t, conn, first, intercept.Created)
			checkSame(t, conn, first)
			*lose.count = 2
			apply(t, conn, second, intercept.Replaced)
			checkSame(t, conn, second)
			apply(t, conn, second, intercept.Unchanged)
			apply(t, conn, settled, intercept.Replaced)
			*lose.count = 2
			if err := conn.Settle(t.Context(), listed); err != nil {
				t.Errorf("Settle: %v", err)
			}
			if older, err := conn.Older(t.Context()); err != nil || !slices.Equal(older, listed.Older) {
				t.Errorf("after Settle: %v, %v", older, err)
			}
			*lose.count = 2
			if removed, err := conn.Remove(t.Context()); !removed || err != nil {
				t.Errorf("Remove: %t, %v", removed, err)
			}
			if removed, err := conn.Remove(t.Context()); removed || err != nil {
				t.Errorf("Remove again: %t, %v", removed, err)
			}
			*lose.count = 2
			if err := conn.Probe(first); err != nil {
				t.Errorf("Probe: %v", err)
			}
			bad := ruleset.Ruleset{Families: first.Families, Chains: []ruleset.Chain{{Name: "output", Type: ruleset.NATChain,
				Hook: ruleset.Output, Rules: []ruleset.Rule{{ID: "O1", Reason: "nowhere", Target: ruleset.Jump{Chain: "none"}}}}}}
			*lose.count = 2
			var refused *ruleset.RuleError
			if outcome, err := conn.Apply(t.Context(), bad); outcome != "" || !errors.As(err, &refused) {
				t.Errorf("what the kernel refuses: %q, %v", outcome, err)
			}
			*lose.count = 0
		})
	}
	t.Run("always", func(t *testing.T) {
		apply(t, conn, settled, intercept.Created)
		l.before = 1 << 20
		if err := conn.Settle(t.Context(), listed); !errors.Is(err, unix.ENOBUFS) {
			t.Errorf("Settle: %v", err)
		}
		l.before = 0
		if removed, err := conn.Remove(t.Context()); !removed || err != nil {
			t.Errorf("Remove: %t, %v", removed, err)
		}
		l.before = 1 << 20
		outcome, err := conn.Apply(t.Context(), first)
		if outcome == "" || !errors.Is(err, errUnheard) {
			t.Errorf("Apply: %q, %v", outcome, err)
		}
		if removed, err := conn.Remove(t.Context()); removed || err != nil {
			t.Errorf("Remove of nothing: %t, %v", removed, err)
		}
	})
}

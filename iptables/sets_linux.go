package iptables

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/nlsock"
	"github.com/mesh-intercept/intercept/ruleset"
)

// matchesSets reports what keeps rules of the variant from asking sets: the kernel may lack the match, or the programs the
// socket by which they look up a set's number (libxt_set.h).
func (r *Runner) matchesSets() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("%w: %w: to ask a set, %s takes CAP_NET_RAW", ruleset.ErrPermission, err, "iptables-"+r.o.Variant)
	}
	_ = unix.Close(fd)
	e := extension{name: "set"}
	has := func(f ruleset.Family) bool {
		has, known := knows(f, e)
		return has || !known
	}
	if r.o.Variant == NFT {
		sock, err := nlsock.Dial(unix.NETLINK_NETFILTER, 0)
		if err != nil {
			return err
		}
		defer func() { _ = sock.Close() }()
		has = func(f ruleset.Family) bool { return !errors.Is(askCompat(sock, f, e), unix.ENOENT) }
	}
	for _, f := range families() {
		if !has(f) {
			return &ruleset.ModulesError{What: e.String(), Modules: e.modules(f), Err: ruleset.ErrUnsupported}
		}
	}
	return nil
}

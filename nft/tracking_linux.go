package nft

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

func (t *Tracking) create() error {
	const family, held = nftables.TableFamilyINet, "held"
	asks, err := encode(family, []stmt{{exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}}}})
	if err != nil {
		return err
	}
	b := &batch{}
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create|netlink.Excl, family, text(unix.NFTA_TABLE_NAME, t.table),
		number(unix.NFTA_TABLE_FLAGS, tableOwner))
	b.addChain(family, t.table, chain{name: held})
	b.addRule(family, t.table, held, rule{encoded: asks, comment: "mesh-init watch is told of new connections"})
	lost, err := t.conn.insist(b)
	switch {
	case lost && errors.Is(err, unix.EEXIST):
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		err = fmt.Errorf("%w: a table that goes with its process takes Linux 5.12 (%w)", ruleset.ErrUnsupported, err)
	}
	return explain(err, "make a table that keeps connection tracking at work")
}

func (t *Tracking) remove() error {
	b := &batch{}
	b.deleteTable(nftables.TableFamilyINet, t.table)
	_, err := t.conn.insist(b)
	if errors.Is(err, unix.ENOENT) { // somebody else has
		err = nil
	}
	return explain(err, "remove the table that keeps connection tracking at work")
}

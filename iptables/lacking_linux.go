package iptables

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/nlsock"
	"github.com/mesh-intercept/intercept/ruleset"
)

// why adds to a refusal of a program which modules the kernel lacks, in the namespace of the calling thread. The kernel
// tries to load what it is asked for, as it did for the program.
func (p program) why(o Options, refusal error) error {
	if o.gvisor || errors.Is(refusal, ruleset.ErrPermission) || errors.Is(refusal, ruleset.ErrLocked) {
		return refusal // gVisor has no modules
	}
	if o.Variant == Legacy {
		return p.lacking(refusal, func(e extension) bool {
			has, known := knows(p.family, e)
			return has || !known
		})
	}
	sock, err := nlsock.Dial(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return refusal
	}
	defer func() { _ = sock.Close() }()
	if err := askCompat(sock, p.family, extension{name: "tcp"}); errors.Is(err, unix.EINVAL) {
		// So says nfnetlink.c of a subsystem that is not there.
		return &ruleset.ModulesError{What: "extensions of xtables in nf_tables", Modules: []string{"nft_compat"},
			Err: refusal}
	}
	return p.lacking(refusal, func(e extension) bool { return !errors.Is(askCompat(sock, p.family, e), unix.ENOENT) })
}

// askCompat asks nft_compat for an extension (linux/netfilter/nf_tables_compat.h).
func askCompat(sock *netlink.Conn, f ruleset.Family, e extension) error {
	const (
		subsystem = 11 // NFNL_SUBSYS_NFT_COMPAT
		attrName  = 1  // NFTA_COMPAT_NAME
		attrRev   = 2
		attrType  = 3
	)
	family, kind := byte(unix.NFPROTO_IPV4), uint32(0)
	if f == ruleset.IPv6 {
		family = unix.NFPROTO_IPV6
	}
	if e.target {
		kind = 1
	}
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: attrName, Data: append([]byte(e.name), 0)},
		{Type: attrRev, Data: make([]byte, 4)},
		{Type: attrType, Data: binary.BigEndian.AppendUint32(nil, kind)},
	})
	if err != nil {
		return err
	}
	_, err = sock.Execute(netlink.Message{
		Header: netlink.Header{Type: subsystem << 8, Flags: netlink.Request | netlink.Acknowledge},
		Data:   bytes.Join([][]byte{{family, unix.NFNETLINK_V0, 0, 0}, attrs}, nil),
	})
	return err
}

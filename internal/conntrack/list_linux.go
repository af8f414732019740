package conntrack

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Each calls f with each entry of the network namespace that the thread is in, of both families. What opens or ends
// meanwhile may be there or not. The error is [ruleset.ErrUnsupported] where the kernel cannot list connections,
// [ruleset.ErrPermission] without CAP_NET_ADMIN, or says what failed.
func Each(f func(Entry)) error {
	return dump(func(m message) { f(Decode(m.attributes())) })
}

// Delete takes the entries out of which match says so. One that has ended meanwhile is none the less out. The error is
// that of [Each], or joins what the kernel said of entries that stay.
func Delete(match func(Entry) bool) error {
	var out []message
	err := dump(func(m message) {
		if match(Decode(m.attributes())) {
			out = append(out, m)
		}
	})
	for _, m := range out {
		req := request(nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, m.family())
		req.AddRawData(m.attributes())
		if _, e := req.Execute(unix.NETLINK_NETFILTER, 0); !errors.Is(e, unix.ENOENT) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// message is what the kernel says of an entry: struct nfgenmsg, which begins with the family, and attributes.
type message []byte

func (m message) family() uint8      { return m[0] }
func (m message) attributes() []byte { return m[nl.SizeofNfgenmsg:] }

// dump calls f with the message of each entry.
func dump(f func(message)) error {
	req := request(nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, unix.AF_UNSPEC)
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(m []byte) bool {
		if len(m) >= nl.SizeofNfgenmsg {
			f(m)
		}
		return true
	})
	if errors.Is(err, nl.ErrDumpInterrupted) { // by what opened or ended meanwhile
		err = nil
	}
	return explain("list what conntrack knows in the namespace", err)
}

// Supported reports whether the kernel lists connections, and tells of those that begin: it needs nf_conntrack_netlink for
// both. Errors are those of [Each].
func Supported() error {
	const statistics = 5 // IPCTNL_MSG_CT_GET_STATS, whose answer is marked as the first of several; there is one
	_, err := request(statistics, unix.NLM_F_ACK, unix.AF_UNSPEC).Execute(unix.NETLINK_NETFILTER, 0)
	return explain("ask about conntrack", err)
}

// explain says what was attempted, and what the kernel's answer means.
func explain(attempted string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		err = ruleset.NoNetAdmin(err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		// nfnetlink_rcv_msg says EINVAL of what no module answers.
		err = fmt.Errorf("%w for that: load nf_conntrack_netlink on the node (%w)", ruleset.ErrUnsupported, err)
	}
	return fmt.Errorf("%s: %w", attempted, err)
}

// request begins one about entries of a family, or of all.
func request(operation, flags int, family uint8) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|operation, flags)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return req
}

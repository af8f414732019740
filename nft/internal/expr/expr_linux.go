package expr

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableFamily is a family of tables.
type TableFamily = nftables.TableFamily

// The families of tables.
const (
	TableFamilyINet   = nftables.TableFamilyINet
	TableFamilyIPv4   = nftables.TableFamilyIPv4
	TableFamilyIPv6   = nftables.TableFamilyIPv6
	TableFamilyNetdev = nftables.TableFamilyNetdev
)

// The expressions, and the types of their fields.
type (
	Any         = expr.Any
	Bitwise     = expr.Bitwise
	Byteorder   = expr.Byteorder
	Cmp         = expr.Cmp
	CmpOp       = expr.CmpOp
	Counter     = expr.Counter
	Ct          = expr.Ct
	CtKey       = expr.CtKey
	Exthdr      = expr.Exthdr
	Fib         = expr.Fib
	Immediate   = expr.Immediate
	Lookup      = expr.Lookup
	Meta        = expr.Meta
	MetaKey     = expr.MetaKey
	NAT         = expr.NAT
	Payload     = expr.Payload
	PayloadBase = expr.PayloadBase
	Range       = expr.Range
	Redir       = expr.Redir
	Reject      = expr.Reject
	Socket      = expr.Socket
	TProxy      = expr.TProxy
	Verdict     = expr.Verdict
	VerdictKind = expr.VerdictKind
)

// The values of their fields.
const (
	ByteorderHton                = expr.ByteorderHton
	CmpOpEq                      = expr.CmpOpEq
	CmpOpGte                     = expr.CmpOpGte
	CmpOpGt                      = expr.CmpOpGt
	CmpOpLte                     = expr.CmpOpLte
	CmpOpNeq                     = expr.CmpOpNeq
	CtDirOriginal                = expr.CtDirOriginal
	CtKeyDIRECTION               = expr.CtKeyDIRECTION
	CtKeyMARK                    = expr.CtKeyMARK
	CtKeySTATE                   = expr.CtKeySTATE
	CtKeySTATUS                  = expr.CtKeySTATUS
	CtKeyZONE                    = expr.CtKeyZONE
	CtStateBitESTABLISHED        = expr.CtStateBitESTABLISHED
	CtStateBitINVALID            = expr.CtStateBitINVALID
	CtStateBitNEW                = expr.CtStateBitNEW
	CtStateBitRELATED            = expr.CtStateBitRELATED
	CtStateBitUNTRACKED          = expr.CtStateBitUNTRACKED
	ExthdrOpTcpopt               = expr.ExthdrOpTcpopt
	MetaKeyIIF                   = expr.MetaKeyIIF
	MetaKeyIIFNAME               = expr.MetaKeyIIFNAME
	MetaKeyL4PROTO               = expr.MetaKeyL4PROTO
	MetaKeyLEN                   = expr.MetaKeyLEN
	MetaKeyMARK                  = expr.MetaKeyMARK
	MetaKeyNFPROTO               = expr.MetaKeyNFPROTO
	MetaKeyOIF                   = expr.MetaKeyOIF
	MetaKeyOIFNAME               = expr.MetaKeyOIFNAME
	MetaKeySKGID                 = expr.MetaKeySKGID
	MetaKeySKUID                 = expr.MetaKeySKUID
	NATTypeDestNAT               = expr.NATTypeDestNAT
	NF_NAT_RANGE_PROTO_RANDOM    = expr.NF_NAT_RANGE_PROTO_RANDOM
	NF_NAT_RANGE_PROTO_SPECIFIED = expr.NF_NAT_RANGE_PROTO_SPECIFIED
	PayloadBaseNetworkHeader     = expr.PayloadBaseNetworkHeader
	PayloadBaseTransportHeader   = expr.PayloadBaseTransportHeader
	SocketKeyTransparent         = expr.SocketKeyTransparent
	VerdictAccept                = expr.VerdictAccept
	VerdictDrop                  = expr.VerdictDrop
	VerdictGoto                  = expr.VerdictGoto
	VerdictJump                  = expr.VerdictJump
	VerdictReturn                = expr.VerdictReturn
)

// Numbers of the kernel's.
const (
	IFNAMSIZ                      = unix.IFNAMSIZ
	IPPROTO_UDP                   = unix.IPPROTO_UDP
	NFPROTO_IPV4                  = unix.NFPROTO_IPV4
	NFPROTO_IPV6                  = unix.NFPROTO_IPV6
	NFPROTO_UNSPEC                = unix.NFPROTO_UNSPEC
	NFT_EXTHDR_F_PRESENT          = unix.NFT_EXTHDR_F_PRESENT
	NFT_REG32_00                  = unix.NFT_REG32_00
	NFT_REG_1                     = unix.NFT_REG_1
	NFT_REJECT_ICMPX_PORT_UNREACH = unix.NFT_REJECT_ICMPX_PORT_UNREACH
	NFT_REJECT_ICMPX_UNREACH      = unix.NFT_REJECT_ICMPX_UNREACH
	NFT_REJECT_ICMP_UNREACH       = unix.NFT_REJECT_ICMP_UNREACH
	NFT_REJECT_TCP_RST            = unix.NFT_REJECT_TCP_RST
	RTN_LOCAL                     = unix.RTN_LOCAL
)

//go:build !linux

package expr

// TableFamily is a family of tables.
type TableFamily byte

// The families of tables, as linux/netfilter.h has them (NFPROTO_INET and others).
const (
	TableFamilyINet   TableFamily = 1
	TableFamilyIPv4   TableFamily = 2
	TableFamilyNetdev TableFamily = 5
	TableFamilyIPv6   TableFamily = 10
)

// Any is an expression.
type Any any

// The expressions, and the types of their fields.
type (
	Bitwise struct {
		SourceRegister, DestRegister, Len uint32
		Mask, Xor                         []byte
	}
	Byteorder struct {
		SourceRegister, DestRegister uint32
		Op                           byteorderOp
		Len, Size                    uint32
	}
	byteorderOp uint32
	Cmp         struct {
		Op       CmpOp
		Register uint32
		Data     []byte
	}
	CmpOp   uint32
	Counter struct{}
	Ct      struct {
		Register       uint32
		SourceRegister bool
		Key            CtKey
		Direction      uint32
		OptDirection   bool
	}
	CtKey  uint32
	Exthdr struct {
		DestRegister uint32
		Type         uint8
		Len, Flags   uint32
		Op           exthdrOp
	}
	exthdrOp uint32
	Fib      struct {
		Register                  uint32
		ResultADDRTYPE, FlagDADDR bool
	}
	Immediate struct {
		Register uint32
		Data     []byte
	}
	Lookup struct {
		SourceRegister uint32
		SetName        string
		Invert         bool
	}
	Meta struct {
		Key            MetaKey
		SourceRegister bool
		Register       uint32
	}
	MetaKey uint32
	NAT     struct {
		Type                            natType
		Family, RegAddrMin, RegProtoMin uint32
		Specified                       bool
	}
	natType uint32
	Payload struct {
		DestRegister uint32
		Base         PayloadBase
		Offset, Len  uint32
	}
	PayloadBase uint32
	Range       struct {
		Op               CmpOp
		Register         uint32
		FromData, ToData []byte
	}
	Redir struct {
		RegisterProtoMin, RegisterProtoMax, Flags uint32
	}
	Reject struct {
		Type uint32
		Code uint8
	}
	Socket struct {
		Key      socketKey
		Register uint32
	}
	socketKey uint32
	TProxy    struct {
		Family, TableFamily byte
		RegPort             uint32
	}
	Verdict struct {
		Kind  VerdictKind
		Chain string
	}
	VerdictKind int64
)

// The values of their fields. Only what stands in a text, or in the fingerprint of one, has the kernel's number.
const (
	ByteorderHton                byteorderOp = iota
	CmpOpEq                      CmpOp       = iota
	CmpOpGte                     CmpOp       = iota
	CmpOpGt                      CmpOp       = iota
	CmpOpLte                     CmpOp       = iota
	CmpOpNeq                     CmpOp       = iota
	CtKeyDIRECTION               CtKey       = iota
	CtKeyMARK                    CtKey       = iota
	CtKeySTATE                   CtKey       = iota
	CtKeySTATUS                  CtKey       = iota
	CtKeyZONE                    CtKey       = iota
	ExthdrOpTcpopt               exthdrOp    = iota
	MetaKeyIIF                   MetaKey     = iota
	MetaKeyIIFNAME               MetaKey     = iota
	MetaKeyL4PROTO               MetaKey     = iota
	MetaKeyLEN                   MetaKey     = iota
	MetaKeyMARK                  MetaKey     = iota
	MetaKeyNFPROTO               MetaKey     = iota
	MetaKeyOIF                   MetaKey     = iota
	MetaKeyOIFNAME               MetaKey     = iota
	MetaKeySKGID                 MetaKey     = iota
	MetaKeySKUID                 MetaKey     = iota
	NATTypeDestNAT               natType     = iota
	PayloadBaseNetworkHeader     PayloadBase = iota
	PayloadBaseTransportHeader   PayloadBase = iota
	SocketKeyTransparent         socketKey   = iota
	VerdictAccept                VerdictKind = iota
	VerdictDrop                  VerdictKind = iota
	VerdictGoto                  VerdictKind = iota
	VerdictJump                  VerdictKind = iota
	VerdictReturn                VerdictKind = iota
	NF_NAT_RANGE_PROTO_RANDOM                = iota
	NF_NAT_RANGE_PROTO_SPECIFIED             = iota
	CtDirOriginal                            = iota
)

// The states of connections, as the kernel has them in a register (linux/netfilter/nf_conntrack_common.h).
const (
	CtStateBitINVALID     uint32 = 1
	CtStateBitESTABLISHED uint32 = 2
	CtStateBitRELATED     uint32 = 4
	CtStateBitNEW         uint32 = 8
	CtStateBitUNTRACKED   uint32 = 64
)

// Numbers of the kernel's.
const (
	IFNAMSIZ                      = 16
	IPPROTO_UDP                   = 17
	NFPROTO_IPV4                  = 2
	NFPROTO_IPV6                  = 10
	NFPROTO_UNSPEC                = 0
	NFT_EXTHDR_F_PRESENT          = 1
	NFT_REG32_00                  = 8
	NFT_REG_1                     = 1
	NFT_REJECT_ICMPX_PORT_UNREACH = 1
	NFT_REJECT_ICMPX_UNREACH      = 2
	NFT_REJECT_ICMP_UNREACH       = 0
	NFT_REJECT_TCP_RST            = 1
	RTN_LOCAL                     = 2
)

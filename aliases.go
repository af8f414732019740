package intercept

import (
	"net/netip"

	"github.com/mesh-intercept/intercept/ruleset"
)

// The names of package ruleset that a configuration is written in, that Compile's rules are made of, and that backends
// answer with. They are the same types: what takes the one takes the other.

// Lists and other values of a [Config].
type (
	PortRange = ruleset.PortRange
	Ports     = ruleset.Ports
	IDRange   = ruleset.IDRange
	IDs       = ruleset.IDs
	CIDRs     = ruleset.CIDRs
	AddrRange = ruleset.AddrRange
	Mark      = ruleset.Mark
	Protocol  = ruleset.Protocol
	Family    = ruleset.Family
)

// Values of those types. See package ruleset.
const (
	MaxID = ruleset.MaxID

	ICMP   = ruleset.ICMP
	TCP    = ruleset.TCP
	UDP    = ruleset.UDP
	ICMPv6 = ruleset.ICMPv6

	IPv4 = ruleset.IPv4
	IPv6 = ruleset.IPv6
)

// Port returns the range that holds p alone.
func Port(p uint16) PortRange { return ruleset.Port(p) }

// ID returns the range that holds id alone.
func ID(id uint32) IDRange { return ruleset.ID(id) }

// AllPorts returns the list that holds every port: "*".
func AllPorts() Ports { return ruleset.AllPorts() }

// AllCIDRs returns the list that holds every address: "*".
func AllCIDRs() CIDRs { return ruleset.AllCIDRs() }

// ParsePortRange reads "80" or "8000-8010".
func ParsePortRange(s string) (PortRange, error) { return ruleset.ParsePortRange(s) }

// ParsePorts reads the text form of a port list.
func ParsePorts(s string) (Ports, error) { return ruleset.ParsePorts(s) }

// ParseIDs reads the text form of a list of user or group IDs.
func ParseIDs(s string) (IDs, error) { return ruleset.ParseIDs(s) }

// ParseCIDRs reads the text form of an address list.
func ParseCIDRs(s string) (CIDRs, error) { return ruleset.ParseCIDRs(s) }

// ParseMark reads "0x539/0xfff", or "none" for the zero Mark.
func ParseMark(s string) (Mark, error) { return ruleset.ParseMark(s) }

// ParseProtocol reads "tcp" or "udp".
func ParseProtocol(s string) (Protocol, error) { return ruleset.ParseProtocol(s) }

// What [Compile] returns, and what [Ruleset.Trace] says of a packet.
type (
	Ruleset     = ruleset.Ruleset
	Chain       = ruleset.Chain
	Rule        = ruleset.Rule
	RuleID      = ruleset.RuleID
	MarkRoute   = ruleset.MarkRoute
	Packet      = ruleset.Packet
	Owner       = ruleset.Owner
	Tuple       = ruleset.Tuple
	Trace       = ruleset.Trace
	Step        = ruleset.Step
	Fate        = ruleset.Fate
	Action      = ruleset.Action
	CTState     = ruleset.CTState
	PacketError = ruleset.PacketError
)

// Values of those types. See package ruleset.
const (
	Prerouting = ruleset.Prerouting
	Output     = ruleset.Output

	Pass        = ruleset.Pass
	Redirected  = ruleset.Redirected
	Translated  = ruleset.Translated
	Transparent = ruleset.Transparent
	Rejected    = ruleset.Rejected
	Dropped     = ruleset.Dropped

	CTInvalid     = ruleset.CTInvalid
	CTEstablished = ruleset.CTEstablished
	CTRelated     = ruleset.CTRelated
	CTNew         = ruleset.CTNew

	CTOriginal = ruleset.CTOriginal
	CTReply    = ruleset.CTReply

	FIN = ruleset.FIN
	SYN = ruleset.SYN
	RST = ruleset.RST
	PSH = ruleset.PSH
	ACK = ruleset.ACK
	URG = ruleset.URG
)

// RedirectedTo is the fate of a packet that goes to a port of the local proxy.
func RedirectedTo(port uint16) Fate { return ruleset.RedirectedTo(port) }

// What rules are made of. See package ruleset.
type (
	Hook      = ruleset.Hook
	Priority  = ruleset.Priority
	ChainType = ruleset.ChainType

	Match        = ruleset.Match
	Proto        = ruleset.Proto
	SrcPort      = ruleset.SrcPort
	DstPort      = ruleset.DstPort
	Src          = ruleset.Src
	Dst          = ruleset.Dst
	InInterface  = ruleset.InInterface
	OutInterface = ruleset.OutInterface
	UID          = ruleset.UID
	GID          = ruleset.GID
	MetaMark     = ruleset.MetaMark
	HasSocket    = ruleset.HasSocket
	SocketOpen   = ruleset.SocketOpen
	CTDNAT       = ruleset.CTDNAT
	CTDirection  = ruleset.CTDirection
	ToLocal      = ruleset.ToLocal
	Length       = ruleset.Length
	TCPHeader    = ruleset.TCPHeader
	MPTCP        = ruleset.MPTCP
	ICMPEcho     = ruleset.ICMPEcho
	ICMPQuote    = ruleset.ICMPQuote
	Older        = ruleset.Older
	ConnMark     = ruleset.ConnMark
	TCPFlags     = ruleset.TCPFlags
	IsFamily     = ruleset.IsFamily
	Not          = ruleset.Not

	Target      = ruleset.Target
	Accept      = ruleset.Accept
	Return      = ruleset.Return
	Drop        = ruleset.Drop
	Reject      = ruleset.Reject
	Jump        = ruleset.Jump
	Goto        = ruleset.Goto
	Redirect    = ruleset.Redirect
	DNAT        = ruleset.DNAT
	TProxy      = ruleset.TProxy
	Divert      = ruleset.Divert
	SetMark     = ruleset.SetMark
	SetConnMark = ruleset.SetConnMark
	Keep        = ruleset.Keep
	CTZone      = ruleset.CTZone
)

// Values of those types. See package ruleset.
const (
	Input   = ruleset.Input
	Forward = ruleset.Forward

	PriorityRaw    = ruleset.PriorityRaw
	PriorityMangle = ruleset.PriorityMangle
	PriorityDstNAT = ruleset.PriorityDstNAT
	PriorityFilter = ruleset.PriorityFilter

	PriorityFirstNAT = ruleset.PriorityFirstNAT

	FilterChain = ruleset.FilterChain
	NATChain    = ruleset.NATChain
	RouteChain  = ruleset.RouteChain
)

// Opens matches the packet that opens a TCP connection.
func Opens() TCPFlags { return ruleset.Opens() }

// FamilyOf returns the family of a.
func FamilyOf(a netip.Addr) Family { return ruleset.FamilyOf(a) }

// How backends fail and what they answer.
type (
	Outcome    = ruleset.Outcome
	Difference = ruleset.Difference
	Counter    = ruleset.Counter
	RuleError  = ruleset.RuleError
	// PermissionError says which capability is lacking.
	PermissionError = ruleset.PermissionError
)

// Outcomes of an apply. See package ruleset.
const (
	Created   = ruleset.Created
	Replaced  = ruleset.Replaced
	Unchanged = ruleset.Unchanged
)

// The errors of backends, to be tested for with errors.Is. See package ruleset.
var (
	ErrNotIntercepted = ruleset.ErrNotIntercepted
	ErrForeign        = ruleset.ErrForeign
	ErrPermission     = ruleset.ErrPermission
	ErrUnsupported    = ruleset.ErrUnsupported
	ErrNeedsLinux     = ruleset.ErrNeedsLinux
	ErrLocked         = ruleset.ErrLocked
)

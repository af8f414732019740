package beside

import (
	"encoding/binary"
	"net/netip"
)

// OfXTables returns what a target of xtables does, by its name and what it was given, as the kernel has that.
func OfXTables(target string, info []byte) (a Act, known bool) {
	switch target {
	case "DNAT", "NETMAP":
		return DNAT, true
	case "REDIRECT":
		return Redirect, true
	case "TPROXY":
		return TProxy, true
	case "NOTRACK":
		return NoTrack, true
	case "CT":
		const noTrack = 1 // XT_CT_NOTRACK, of the flags that struct xt_ct_target_info begins with
		if len(info) >= 2 && binary.NativeEndian.Uint16(info)&noTrack != 0 {
			return NoTrack, true
		}
		return Zone, true
	case "NFQUEUE":
		return Queue, true
	case "REJECT", "DROP", "SYNPROXY":
		return Discard, true
	}
	return "", false
}

// PortOfXTables returns the port of this host to which a target of xtables sends packets: the first, of several.
func PortOfXTables(target string, info []byte) (port uint16, known bool) {
	at := 0
	switch {
	case target == "REDIRECT" && len(info) >= 40: // struct nf_nat_range
		at = 36
	case target == "REDIRECT": // struct nf_nat_ipv4_multi_range_compat
		at = 16
	case target == "TPROXY" && len(info) >= 26: // struct xt_tproxy_target_info_v1
		at = 24
	case target == "TPROXY": // struct xt_tproxy_target_info
		at = 12
	}
	if at == 0 || len(info) < at+2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(info[at:]), true
}

// ToThisHost reports whether a target of xtables translates destinations to this host: REDIRECT, or DNAT to loopback.
func ToThisHost(target string, info []byte, ipv6 bool) bool {
	if target == "REDIRECT" {
		return true
	}
	at, size := 4, 4 // struct nf_nat_range
	switch {
	case target != "DNAT":
		return false
	case ipv6:
		size = 16
	case len(info) < 40:
		at = 8 // struct nf_nat_ipv4_multi_range_compat
	}
	if len(info) < at+size {
		return false
	}
	a, _ := netip.AddrFromSlice(info[at : at+size])
	return a.IsLoopback()
}

// CalledByXTables returns ports that packets have to go to for a match of xtables to hold: of a range the first.
func CalledByXTables(match string, info []byte) (ports []uint16) {
	const multiport, inverseAt, destinations = 48, 47, 1 // of struct xt_multiport_v1
	port := func(at int) uint16 { return binary.NativeEndian.Uint16(info[at:]) }
	inverse := map[string]int{"tcp": 11, "udp": 8}[match] // in struct xt_tcp and xt_udp
	switch {
	case inverse > 0 && len(info) > inverse && info[inverse]&2 == 0 && (port(4) != 0 || port(6) != 1<<16-1):
		return []uint16{port(4)}
	case match == "multiport" && len(info) == multiport && info[inverseAt] == 0 && info[0] >= destinations:
		for i := 0; i < int(info[1]) && i < 15; i++ {
			ports = append(ports, port(2+2*i))
		}
	}
	return ports
}

// AsksDestination reports whether a match of xtables holds for destinations of some types alone (addrtype).
func AsksDestination(match string, info []byte) bool {
	const invertDestination, sizeOfV1 = 2, 8 // XT_ADDRTYPE_INVERT_DEST, and of struct xt_addrtype_info_v1
	switch {
	case match != "addrtype" || len(info) < sizeOfV1 || binary.NativeEndian.Uint16(info[2:]) == 0:
		return false
	case len(info) == sizeOfV1:
		return binary.NativeEndian.Uint32(info[4:])&invertDestination == 0
	}
	return len(info) < 12 || binary.NativeEndian.Uint32(info[8:]) == 0 // invert_dest of struct xt_addrtype_info
}

// IsMark reports whether a target of xtables marks packets or connections, and does nothing else.
func IsMark(target string) bool { return target == "MARK" || target == "CONNMARK" }

package beside

import "encoding/binary"

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

// IsMark reports whether a target of xtables marks packets or connections, and does nothing else.
func IsMark(target string) bool { return target == "MARK" || target == "CONNMARK" }

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

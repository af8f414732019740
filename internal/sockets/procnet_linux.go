package sockets

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/netip"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/internal/procfile"
	"github.com/mesh-intercept/intercept/ruleset"
)

// Where there is no sock_diag(7), proc_pid_net(5) shows sockets. gVisor shows none of UDP over IPv6 there.

// readProc reads the sockets of a protocol.
func readProc(p ruleset.Protocol) (all []listed, err error) {
	for _, name := range []string{p.String(), p.String() + "6"} {
		text, err := procfile.Read("/proc/thread-self/net/" + name)
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) && name != p.String() {
				continue // no IPv6
			}
			return nil, err
		}
		all = append(all, parseProc(string(text))...)
	}
	return all, nil
}

// parseProc reads the lines that it understands.
func parseProc(text string) (all []listed) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 10 || !strings.HasSuffix(words[0], ":") {
			continue
		}
		local, ok1 := parseEnd(words[1])
		peer, ok2 := parseEnd(words[2])
		state, err1 := strconv.ParseUint(words[3], 16, 8)
		uid, err2 := strconv.ParseUint(words[7], 10, 32)
		inode, err3 := strconv.ParseUint(words[9], 10, 64)
		if !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil {
			continue
		}
		l := listed{Socket: Socket{Local: local, UID: uint32(uid), Inode: inode}, peer: peer}
		l.is(uint8(state))
		all = append(all, l)
	}
	return all
}

// parseEnd reads an address and port: words of 32 bits as the machine has them, in hexadecimal digits.
func parseEnd(text string) (a netip.AddrPort, ok bool) {
	digits, port, _ := strings.Cut(text, ":")
	b, err1 := hex.DecodeString(digits)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if err1 != nil || err2 != nil || len(b) != 4 && len(b) != 16 {
		return a, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), true
}

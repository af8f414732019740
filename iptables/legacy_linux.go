package iptables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/gvisor"
	"github.com/mesh-intercept/intercept/ruleset"
)

func legacyHas(f ruleset.Family, prefix string) (has bool, err error) {
	err = legacyContents(f, func(_ string, _, entries []byte) bool {
		has = bytes.Contains(entries, []byte(chainHead+prefix))
		return !has
	})
	return has, err
}

// legacyContents calls fn with the content of each legacy table that there is, as linux/netfilter_ipv4/ip_tables.h has
// it (struct ipt_getinfo, and entries), until it says that this is enough.
func legacyContents(f ruleset.Family, fn func(table string, info, entries []byte) bool) error {
	names, err := legacyTables(f)
	if err != nil || len(names) == 0 {
		return err
	}
	domain, level := sockets(f)
	kind, protocol := unix.SOCK_DGRAM, 0
	if gvisor.Here() {
		kind, protocol = unix.SOCK_RAW, unix.IPPROTO_RAW // it does not answer others, and Linux needs no CAP_NET_RAW here
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("look into the legacy tables: %w (%w): it takes CAP_NET_RAW", ruleset.ErrPermission, err)
	}
	if err != nil {
		return fmt.Errorf("look into the legacy tables: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	for _, name := range names {
		info, entries, err := content(fd, level, name)
		if errors.Is(err, unix.EPERM) {
			err = ruleset.NoNetAdmin(err)
		}
		if err != nil {
			return fmt.Errorf("look into the legacy table %s of %s: %w", name, f, err)
		}
		if !fn(name, info, entries) {
			return nil
		}
	}
	return nil
}

// chainHead is what stands before a chain's name in a table's content: the name of the target that an entry at its head
// has (XT_ERROR_TARGET, in 29 bytes), and the target's revision.
const chainHead = "ERROR" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00"

// sockets returns the domain of sockets of a family, and the level of their options.
func sockets(f ruleset.Family) (domain, level int) {
	if f == ruleset.IPv6 {
		return unix.AF_INET6, unix.SOL_IPV6
	}
	return unix.AF_INET, unix.SOL_IP
}

// content returns a table's content, as linux/netfilter_ipv4/ip_tables.h has it: struct ipt_getinfo, and the entries.
// Of IPv6 the numbers of the options are the same, and the structures but for the entries' heads.
func content(fd, level int, table string) (info, entries []byte, err error) {
	const (
		getInfo    = 64 // IPT_SO_GET_INFO
		getEntries = 65 // IPT_SO_GET_ENTRIES
		nameSize   = 32 // XT_TABLE_MAXNAMELEN
		infoSize   = 84 // struct ipt_getinfo
		sizeAt     = 80
		header     = 40 // struct ipt_get_entries, to the entries
	)
	for range 10 {
		info := make([]byte, infoSize)
		copy(info[:nameSize-1], table)
		if err := getsockopt(fd, level, getInfo, info); err != nil {
			return nil, nil, err
		}
		size := binary.NativeEndian.Uint32(info[sizeAt:])
		buffer := make([]byte, header+size)
		copy(buffer[:nameSize-1], table)
		binary.NativeEndian.PutUint32(buffer[nameSize:], size)
		err := getsockopt(fd, level, getEntries, buffer)
		if err == nil {
			return info, buffer[header:], nil
		}
		if !errors.Is(err, unix.EAGAIN) { // it has another size by now
			return nil, nil, err
		}
	}
	return nil, nil, unix.EAGAIN
}

// askForTable finds out what the kernel answered where iptables-restore says only that it was unable to initialize a
// table: whether the kernel has none, or the process may not have it, are two things. It asks as libiptc does, in the
// namespace of the calling thread.
func (e *ProgramError) askForTable(f ruleset.Family) {
	m := regexp.MustCompile(`unable to initialize table '(\w+)'`).FindStringSubmatch(e.Said)
	if m == nil {
		return
	}
	domain, level := sockets(f)
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err == nil {
		_, _, err = content(fd, level, m[1])
		_ = unix.Close(fd)
	}
	if errno, ok := errors.AsType[unix.Errno](err); ok {
		e.errno = errno
	}
}

// knows asks the kernel whether it has an extension for legacy tables, without writing anything: struct
// xt_get_revision. known is false where it does not say, for want of privilege or of the legacy variant.
func knows(f ruleset.Family, e extension) (has, known bool) {
	const size, revisionAt = 30, 29
	option := 66 // IPT_SO_GET_REVISION_MATCH
	if f == ruleset.IPv6 {
		option = 68 // IP6T_SO_GET_REVISION_MATCH
	}
	if e.target {
		option++ // …_TARGET
	}
	domain, level := sockets(f)
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false, false
	}
	defer func() { _ = unix.Close(fd) }()
	asked := make([]byte, size)
	copy(asked[:revisionAt-1], e.name)
	err = getsockopt(fd, level, option, asked)
	return err == nil, err == nil || errors.Is(err, unix.ENOENT)
}

func getsockopt(fd, level, option int, buffer []byte) error {
	length := uint32(len(buffer))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

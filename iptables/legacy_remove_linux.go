package iptables

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// replaceBy puts another content in the place of t in the kernel, which refuses it if the table has another number of
// entries by now. What the entries have counted is added to them.
func (t legacyTable) replaceBy(other legacyTable) error {
	const (
		setReplace     = 64 // IPT_SO_SET_REPLACE
		setAddCounters = 65 // IPT_SO_SET_ADD_COUNTERS
		nameSize       = 32 // XT_TABLE_MAXNAMELEN
		// struct ipt_replace, where pointers have eight bytes
		entriesAt, hooksAt, numAt, sizeAt, numCountersAt, countersAt = 96, 32, 36, 40, 84, 88
		countersHead                                                 = 40 // of struct xt_counters_info
		counterSize                                                  = 16 // struct xt_counters
	)
	if unsafe.Sizeof(uintptr(0)) != 8 {
		return fmt.Errorf("%w: legacy tables are changed without a program on 64-bit systems alone", ruleset.ErrUnsupported)
	}
	domain, level := sockets(t.family)
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return fmt.Errorf("change the legacy table %s of %s: %w", t.name, t.family, err)
	}
	defer func() { _ = unix.Close(fd) }()

	before := binary.NativeEndian.Uint32(t.info[numEntriesAt:])
	old := make([]byte, counterSize*max(before, 1)) // the kernel writes the counters of what is replaced
	var pinned runtime.Pinner
	pinned.Pin(&old[0])
	defer pinned.Unpin()

	b := make([]byte, entriesAt, entriesAt+len(other.entries))
	copy(b[:nameSize-1], t.name)
	copy(b[hooksAt:], other.info[validHooksAt:validHooksAt+4])
	copy(b[numAt:], other.info[numEntriesAt:numEntriesAt+4])
	binary.NativeEndian.PutUint32(b[sizeAt:], uint32(len(other.entries)))
	copy(b[sizeAt+4:], other.info[hookEntryAt:numEntriesAt]) // hook entries and underflows
	binary.NativeEndian.PutUint32(b[numCountersAt:], before)
	binary.NativeEndian.PutUint64(b[countersAt:], uint64(uintptr(unsafe.Pointer(&old[0]))))
	b = append(b, other.entries...)
	if err := setsockopt(fd, level, setReplace, b); err != nil {
		return fmt.Errorf("change the legacy table %s of %s: %w", t.name, t.family, err)
	}
	list := readEntries(other.family, other.entries)
	c := make([]byte, countersHead)
	copy(c[:nameSize-1], t.name)
	binary.NativeEndian.PutUint32(c[nameSize:], uint32(len(list)))
	for _, e := range list {
		c = append(c, e.head[len(e.head)-counterSize:]...)
	}
	_ = setsockopt(fd, level, setAddCounters, c) // counts are no more than a help
	return nil
}

func setsockopt(fd, level, option int, buffer []byte) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(len(buffer)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

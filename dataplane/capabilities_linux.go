package dataplane

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func takeUpCapabilities() {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil || data[0].Effective == data[0].Permitted {
		return
	}
	data[0].Effective, data[1].Effective = data[0].Permitted, data[1].Permitted
	// Capabilities are the thread's.
	_, _, _ = syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)),
		uintptr(unsafe.Pointer(&data[0])), 0)
}

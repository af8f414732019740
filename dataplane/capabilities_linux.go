package dataplane

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TakeUpCapabilities makes effective what capabilities the process is permitted. A program of an image has them so if
// its file gives them to users other than root without making them effective: then it starts where the container may
// not have them, too (capabilities(7)). It does nothing for root.
func TakeUpCapabilities() {
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

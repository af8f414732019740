// Package faults makes what a program asks the kernel by netlink fail, as the kernel itself does when it has no
// memory for an answer, or when a signal comes: the program and all that it starts, whatever they are written in.
//
// It is a filter of seccomp(2) that asks this process about each system call on a netlink socket
// (SECCOMP_RET_USER_NOTIF, Linux 5.5). A call goes on, or its caller gets an error: EINTR before anything is done, or
// ENOBUFS. An answer that is lost (ENOBUFS) is really taken out of the socket, unless it is a part of a listing,
// which the kernel would keep.
package faults

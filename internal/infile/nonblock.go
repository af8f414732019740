//go:build !js

package infile

import "syscall"

// nonBlock opens a file without waiting for whoever is at its other end.
const nonBlock = syscall.O_NONBLOCK

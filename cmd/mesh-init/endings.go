//go:build !js

package main

import (
	"os"
	"syscall"
)

// endings are the signals that end what goes on for a while. A reader that has enough (| head) ends it as Ctrl-C does: so
// that what was changed is put back.
func endings() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE} }

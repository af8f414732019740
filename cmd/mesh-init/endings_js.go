package main

import (
	"os"
	"syscall"
)

// endings are the signals that end what goes on for a while, as far as there are any.
func endings() []os.Signal { return []os.Signal{os.Interrupt, syscall.SIGTERM} }

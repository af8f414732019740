//go:build !linux

package main

import "github.com/mesh-intercept/intercept"

func appendLine(string, int64, []byte) error { return intercept.ErrNeedsLinux }

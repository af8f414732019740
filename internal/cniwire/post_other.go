//go:build !linux

package cniwire

import "github.com/mesh-intercept/intercept/ruleset"

func post(string, []byte) error { return ruleset.ErrNeedsLinux }

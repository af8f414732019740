//go:build !linux

package iptables

import (
	"context"
	"os"
	"os/exec"

	"github.com/mesh-intercept/intercept/ruleset"
)

func legacyHas(ruleset.Family, string) (bool, error) { return false, ruleset.ErrNeedsLinux }
func legacyContents(ruleset.Family, func(string, []byte, []byte) bool) error {
	return ruleset.ErrNeedsLinux
}
func (legacyTable) replaceBy(legacyTable) error         { return ruleset.ErrNeedsLinux }
func knows(ruleset.Family, extension) (has, known bool) { return false, false }
func (*ProgramError) askForTable(ruleset.Family)        {}
func inGroup(*exec.Cmd)                                 {}
func memory(name, content string) (*os.File, error)     { return nil, ruleset.ErrNeedsLinux }
func inode(*os.File) (uint64, error)                    { return 0, ruleset.ErrNeedsLinux }
func (*Runner) matchesSets() error                      { return ruleset.ErrNeedsLinux }
func (program) why(_ Options, refusal error) error      { return refusal }

func (*Runner) each(context.Context, func(ruleset.Family, string, goIPTables) error) error {
	return ruleset.ErrNeedsLinux
}

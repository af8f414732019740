package iptables

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/mesh-intercept/intercept/ruleset"
)

// ProgramError is a program that refused what it was given, or that was ended. It wraps Err, and with it
// [ruleset.ErrPermission], [ruleset.ErrUnsupported] or [ruleset.ErrLocked] if what the program said means that.
type ProgramError struct {
	Program string // its name, such as iptables-restore
	Err     error  // how it ended, as package exec has it, or the error of the context that ended it
	Said    string // on its standard error
	Line    int    // the line of its input that it refused; 0: it did not say
	Text    string // that line
	// errno is the kernel's answer, where the program keeps it to itself.
	errno syscall.Errno
	// deletes: a rule is deleted in that line, or it ends a table in which one is.
	deletes bool
}

func newProgramError(program string, err error, said, input string) *ProgramError {
	e := &ProgramError{Program: program, Err: err, Said: said}
	if m := regexp.MustCompile(`line:? (\d+)`).FindStringSubmatch(said); m != nil {
		n, _ := strconv.Atoi(m[1])
		if lines := strings.Split(input, "\n"); n > 0 && n <= len(lines) {
			e.Line, e.Text = n, lines[n-1]
			table := strings.Join(lines[:n], "\n")
			table = table[strings.LastIndex(table, "\n*")+1:]
			e.deletes = strings.HasPrefix(e.Text, "-D ") || e.Text == "COMMIT" && strings.Contains(table, "\n-D ")
		}
	}
	return e
}

// Error says what failed, in which line of the input, and what the line is.
func (e *ProgramError) Error() string {
	said := strings.Join(strings.FieldsFunc(strings.TrimSpace(e.Said), func(r rune) bool { return r == '\n' }), "; ")
	said, _, _ = strings.Cut(said, "; Try `") // to get help
	text := fmt.Sprintf("%s: %s", e.Program, e.Err)
	if said != "" {
		text += ": " + said
	}
	if e.errno != 0 {
		text += fmt.Sprintf("; the kernel says %s", e.errno)
	}
	if e.Line > 0 {
		text += fmt.Sprintf("; line %d is %q", e.Line, e.Text)
	}
	if e.Text == "COMMIT" {
		text += ", where the kernel is asked: it refused one of the rules before it"
	}
	return text
}

func (e *ProgramError) Unwrap() []error {
	all := []error{e.Err}
	if kind := e.kind(); kind != nil {
		all = append(all, kind)
	}
	if e.errno != 0 {
		all = append(all, e.errno)
	}
	return all
}

// kind reads what the program said: exit codes do not tell. 4 is a lock held by another, but also a busy chain, and no
// permission.
func (e *ProgramError) kind() error {
	says := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(e.Said, w) {
				return true
			}
		}
		return false
	}
	switch {
	case says("xtables lock"):
		return ruleset.ErrLocked
	case e.errno == syscall.EPERM, says("Permission denied", "Operation not permitted", "must be root"):
		return ruleset.ErrPermission
	case e.errno != 0, errors.Is(e.Err, fs.ErrNotExist), errors.Is(e.Err, fs.ErrPermission),
		says("can't initialize", "Table does not exist", "do you need to insmod", "No chain/target/match by that name",
			"missing kernel module", "Couldn't load", "unknown option", "Protocol not supported",
			"Operation not supported", "Address family not supported", "Failed to initialize nft", "is incompatible",
			"RULE_APPEND failed (No such file or directory)"): // an expression or a chain's type
		return ruleset.ErrUnsupported
	}
	return nil
}

// missed reports whether a rule could not be deleted, which was there when the tables were listed. iptables-nft-restore
// 1.8.7 leaves open which rule of a table the kernel has refused: then it may be one to delete.
func (e *ProgramError) missed() bool { return e.deletes }

// withRemedy says what the programs need where they were refused for want of privilege.
func withRemedy(err error) error {
	if _, ok := errors.AsType[*ProgramError](err); ok && errors.Is(err, ruleset.ErrPermission) {
		return &ruleset.PermissionError{Capabilities: []string{"NET_ADMIN", "NET_RAW"}, Err: err}
	}
	return err
}

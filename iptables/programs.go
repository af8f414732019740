package iptables

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Variant is one of the two programs that are called iptables.
type Variant string

const (
	// NFT is iptables-nft: the kernel's nf_tables, with rules as iptables writes them.
	NFT Variant = "nft"
	// Legacy is iptables-legacy: the kernel's ip_tables and ip6_tables.
	Legacy Variant = "legacy"
)

// command is a program and the arguments that it always gets.
type command []string

// programs are those of one variant and one family.
type programs struct{ save, restore command }

// lookPath finds a program in PATH, or else where a system keeps its own: the environment of a CNI plugin or an init
// container often lacks those directories.
func lookPath(name string) (string, bool) {
	for _, dir := range append([]string{""}, sbins()...) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, true
		}
	}
	return "", false
}

func sbins() []string { return []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"} }

// baseName is what the programs of a family are called without a suffix.
func baseName(f ruleset.Family) string {
	if f == ruleset.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// A missingError says which program there is not: it is [ruleset.ErrUnsupported], but no fault of the kernel's.
type missingError string

func missing(format string, args ...any) error { return missingError(fmt.Sprintf(format, args...)) }

func (e missingError) Error() string { return string(e) }

func (missingError) Unwrap() error { return ruleset.ErrUnsupported }

// find returns the programs of a variant: by their own names, through the binary that holds them all, or by the names
// without a suffix if those are of the variant. go-iptables does none of it: it knows one name for each family, and
// keeps the path and the variant that it finds to itself.
func find(ctx context.Context, v Variant, f ruleset.Family) (programs, error) {
	base := baseName(f)
	own := base + "-" + string(v)
	save, ok1 := lookPath(own + "-save")
	restore, ok2 := lookPath(own + "-restore")
	if ok1 && ok2 {
		return programs{command{save}, command{restore}}, nil
	}
	if multi, ok := lookPath("xtables-" + string(v) + "-multi"); ok {
		return programs{command{multi, base + "-save"}, command{multi, base + "-restore"}}, nil
	}
	save, ok1 = lookPath(base + "-save")
	restore, ok2 = lookPath(base + "-restore")
	if !ok1 || !ok2 {
		return programs{}, missing("there is no %s-restore and no %s-restore in PATH or %s: install iptables, or use the "+
			"backend nft, which needs no program", own, base, strings.Join(sbins(), ", "))
	}
	is, err := variantOf(ctx, restore)
	switch {
	case err != nil:
		return programs{}, err
	case is != v:
		return programs{}, missing("%s is the %s variant, and there is no %s-restore: install it, or use the backend "+
			"iptables-%s", restore, is, own, is)
	}
	return programs{command{save}, command{restore}}, nil
}

// variantOf asks a program which variant it is of. It says so since 1.8.0; before, there was only the legacy one.
func variantOf(ctx context.Context, path string) (Variant, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		switch name := filepath.Base(real); {
		case strings.HasPrefix(name, "xtables-nft"):
			return NFT, nil
		case strings.HasPrefix(name, "xtables-legacy"):
			return Legacy, nil
		}
	}
	out, err := command{path}.run(ctx, "", nil, nil, "--version")
	if err != nil {
		return "", err
	}
	if strings.Contains(out, "nf_tables") {
		return NFT, nil
	}
	return Legacy, nil
}

package iptables

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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

// sbins are looked through after PATH, which in a CNI plugin's environment or
// an init container often lacks them.
var sbins = []string{"/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin"}

func lookPath(name string) (string, bool) {
	if path, err := exec.LookPath(name); err == nil {
		return path, true
	}
	for _, dir := range sbins {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, true
		}
	}
	return "", false
}

// find returns the programs of a variant: by their own names, through the
// binary that holds them all, or by the names without a suffix if those are
// of the variant.
func find(v Variant, f ruleset.Family) (programs, error) {
	base := "iptables"
	if f == ruleset.IPv6 {
		base = "ip6tables"
	}
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
		return programs{}, fmt.Errorf("%w: there is no %s-restore and no %s-restore in PATH or %s: install iptables, or use the backend nft, which needs no program",
			ruleset.ErrUnsupported, own, base, strings.Join(sbins, ", "))
	}
	is, err := variantOf(restore)
	switch {
	case err != nil:
		return programs{}, err
	case is != v:
		return programs{}, fmt.Errorf("%w: %s is the %s variant, and there is no %s-restore: install it, or use the backend iptables-%s", ruleset.ErrUnsupported, restore, is, own, is)
	}
	return programs{command{save}, command{restore}}, nil
}

// variantOf asks a program which variant it is of. It says so since 1.8.0;
// before, there was only the legacy one.
func variantOf(path string) (Variant, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		switch name := filepath.Base(real); {
		case strings.HasPrefix(name, "xtables-nft"):
			return NFT, nil
		case strings.HasPrefix(name, "xtables-legacy"):
			return Legacy, nil
		}
	}
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", path, err)
	}
	if bytes.Contains(out, []byte("nf_tables")) {
		return NFT, nil
	}
	return Legacy, nil
}

// run runs a program in the namespace of the calling thread and returns what
// it prints.
func (c command) run(input string, env []string, extra []*os.File, args ...string) (stdout string, err error) {
	p, err := c.start(input, env, extra, args...)
	if err != nil {
		return "", err
	}
	return p.finish()
}

// process is a program that was started. Its input and output are files in
// memory: no goroutine copies them, no size of either can block, and several
// can run at once without a thread for each.
type process struct {
	name                  string
	cmd                   *exec.Cmd
	input                 string
	stdin, stdout, stderr *os.File
	err                   error // of the start
}

// start starts a program in the namespace of the calling thread. The child has
// the files extra as its descriptors 3 and up.
func (c command) start(input string, env []string, extra []*os.File, args ...string) (*process, error) {
	p := &process{name: c[len(c)-1], input: input}
	for _, f := range []struct {
		file          **os.File
		name, content string
	}{{&p.stdin, "input", input}, {&p.stdout, "output", ""}, {&p.stderr, "errors", ""}} {
		var err error
		if *f.file, err = memory(f.name, f.content); err != nil {
			return nil, errors.Join(err, p.close())
		}
	}
	p.cmd = exec.Command(c[0], append(c[1:len(c):len(c)], args...)...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = p.stdin, p.stdout, p.stderr
	p.cmd.Env, p.cmd.ExtraFiles = env, extra
	p.err = p.cmd.Start()
	return p, nil
}

// finish waits for the program and returns what it has printed.
func (p *process) finish() (stdout string, err error) {
	defer func() { _ = p.close() }() // in memory
	runErr := p.err
	if runErr == nil {
		runErr = p.cmd.Wait()
	}
	text, err := contents(p.stdout)
	if err != nil || runErr == nil {
		return text, err
	}
	said, err := contents(p.stderr)
	if err != nil {
		return "", err
	}
	return text, &failure{program: p.name, err: runErr, said: said, input: p.input}
}

func (p *process) close() error {
	var errs []error
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// memory returns a file that is nowhere but in memory.
func memory(name, content string) (*os.File, error) {
	fd, err := unix.MemfdCreate("mesh-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteString(content); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func contents(f *os.File) (string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	b, err := io.ReadAll(f)
	return string(b), err
}

// failure is a program's refusal.
type failure struct {
	program string
	err     error // as of exec.Cmd
	said    string
	input   string
	errno   unix.Errno // the kernel's answer, where the program keeps it to itself
}

func (f *failure) Unwrap() []error {
	all := []error{f.err}
	if kind := f.kind(); kind != nil {
		all = append(all, kind)
	}
	if f.errno != 0 {
		all = append(all, f.errno)
	}
	return all
}

// kind reads what the program said: exit codes do not tell. 4 is a lock held
// by another, but also a busy chain, and no permission.
func (f *failure) kind() error {
	says := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(f.said, w) {
				return true
			}
		}
		return false
	}
	switch {
	case says("xtables lock"):
		return ruleset.ErrLocked
	case f.errno == unix.EPERM, says("Permission denied", "Operation not permitted", "must be root"):
		return ruleset.ErrPermission
	case f.errno != 0, errors.Is(f.err, fs.ErrNotExist), errors.Is(f.err, fs.ErrPermission),
		says("can't initialize", "Table does not exist", "do you need to insmod", "No chain/target/match by that name",
			"missing kernel module", "Couldn't load", "unknown option", "Protocol not supported",
			"Operation not supported", "Address family not supported", "Failed to initialize nft", "is incompatible"):
		return ruleset.ErrUnsupported
	}
	return nil
}

// line returns the line of the input that was refused, and its number, if the
// program says which.
func (f *failure) line() (int, string) {
	m := regexp.MustCompile(`line:? (\d+)`).FindStringSubmatch(f.said)
	if m == nil {
		return 0, ""
	}
	n, _ := strconv.Atoi(m[1])
	lines := strings.Split(f.input, "\n")
	if n < 1 || n > len(lines) {
		return 0, ""
	}
	return n, lines[n-1]
}

// missed reports whether a rule could not be deleted: it was there when the
// tables were listed.
func (f *failure) missed() bool {
	_, line := f.line()
	return strings.HasPrefix(line, "-D ")
}

// Error says what failed, in which line of the input, and what the line is.
func (f *failure) Error() string {
	said := strings.Join(strings.FieldsFunc(strings.TrimSpace(f.said), func(r rune) bool { return r == '\n' }), "; ")
	if i := strings.Index(said, "; Try `"); i >= 0 {
		said = said[:i]
	}
	text := fmt.Sprintf("%s: %s", f.program, f.err)
	if said != "" {
		text += ": " + said
	}
	if f.errno != 0 {
		text += fmt.Sprintf("; the kernel says %s", f.errno)
	}
	if n, line := f.line(); n > 0 {
		text += fmt.Sprintf("; line %d is %q", n, line)
		if line == "COMMIT" {
			text += ", where the kernel is asked: it refused one of the rules before it"
		}
	}
	switch kind := f.kind(); {
	case errors.Is(kind, ruleset.ErrPermission):
		text += ": it takes CAP_NET_ADMIN and CAP_NET_RAW in the user namespace that owns the network namespace; in a pod, run as user 0 with capabilities.add: [NET_ADMIN, NET_RAW]"
	case errors.Is(kind, ruleset.ErrUnsupported):
		text += ": `mesh-init doctor` says what this system lacks"
	}
	return text
}

func (o Options) wait() time.Duration {
	if o.Wait <= 0 {
		return DefaultWait
	}
	return o.Wait
}

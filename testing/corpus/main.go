// Command corpus keeps what a fuzz target has found out: of the inputs that Go's fuzzing engine has in its cache, it
// copies to the package's testdata/fuzz those that reach statements that no input there reaches, the smallest first.
// Every go test then runs them.
//
//	corpus PACKAGE TARGET
package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// most is how many inputs a target keeps.
	most = 24
	// mostBytes is how large one of them may be.
	mostBytes = 2048
	// mostTried bounds how many are tried: it takes some 20 ms each.
	mostTried = 2000
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: corpus PACKAGE TARGET")
		os.Exit(2)
	}
	kept, err := keep(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "corpus:", err)
		os.Exit(1)
	}
	if len(kept) > 0 {
		fmt.Printf("new in testdata/fuzz/%s: %s\n", os.Args[2], strings.Join(kept, " "))
	}
}

// keep copies inputs, and returns their names.
func keep(pkg, target string) (kept []string, err error) {
	dir, err := goSays("list", "-f", "{{.Dir}}", pkg)
	if err != nil {
		return nil, err
	}
	path, err := goSays("list", "-f", "{{.ImportPath}}", pkg)
	if err != nil {
		return nil, err
	}
	cache, err := goSays("env", "GOCACHE")
	if err != nil {
		return nil, err
	}
	home := filepath.Join(dir, "testdata", "fuzz", target)
	there, err := os.ReadDir(home)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	found, err := candidates(filepath.Join(cache, "fuzz", path, target), home)
	if err != nil || len(found) == 0 || len(there) >= most {
		return nil, err
	}
	work, err := os.MkdirTemp("", "corpus")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	t, err := newTrial(work, dir, pkg, target)
	if err != nil {
		return nil, err
	}
	reached, err := t.reaches("")
	if err != nil {
		return nil, err
	}
	for _, name := range found {
		reaches, err := t.reaches(name)
		if err != nil {
			return kept, fmt.Errorf("%s %s: %w", target, name, err)
		}
		if !adds(reached, reaches) {
			continue
		}
		if err := t.copyTo(home, name); err != nil {
			return kept, err
		}
		if kept = append(kept, name); len(there)+len(kept) == most {
			break
		}
	}
	return kept, nil
}

// adds adds statements to those reached, and reports whether there was a new one.
func adds(reached, more map[string]bool) (is bool) {
	for at := range more {
		is = is || !reached[at]
		reached[at] = true
	}
	return is
}

// candidates are the small inputs of a cache that are not in home, the smallest first.
func candidates(cache, home string) ([]string, error) {
	all, err := os.ReadDir(cache)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	size := map[string]int64{}
	var names []string
	for _, e := range all {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(filepath.Join(home, e.Name())); err == nil || info.Size() > mostBytes {
			continue
		}
		size[e.Name()] = info.Size()
		names = append(names, e.Name())
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(size[a], size[b]), strings.Compare(a, b))
	})
	return names[:min(len(names), mostTried)], nil
}

// trial runs a fuzz target with single inputs.
type trial struct {
	binary, dir, inputs, cache, target string
}

// newTrial builds the package's tests, and a copy of its testdata with the inputs of the cache.
func newTrial(work, dir, pkg, target string) (t trial, err error) {
	t = trial{binary: filepath.Join(work, "test"), dir: filepath.Join(work, "there"), target: target}
	t.inputs = filepath.Join(t.dir, "testdata", "fuzz", target)
	path, err := goSays("list", "-f", "{{.ImportPath}}", pkg)
	if err != nil {
		return t, err
	}
	cache, err := goSays("env", "GOCACHE")
	if err != nil {
		return t, err
	}
	t.cache = filepath.Join(cache, "fuzz", path, target)
	const ours = "github.com/mesh-intercept/intercept/..."
	if _, err := goSays("test", "-c", "-cover", "-coverpkg", ours, "-o", t.binary, pkg); err != nil {
		return t, err
	}
	if err := os.MkdirAll(t.inputs, 0o755); err != nil {
		return t, err
	}
	// The target may read its package's files.
	testdata := filepath.Join(dir, "testdata")
	if err := os.CopyFS(filepath.Dir(filepath.Dir(t.inputs)), os.DirFS(testdata)); err != nil &&
		!errors.Is(err, os.ErrNotExist) {
		return t, err
	}
	all, err := os.ReadDir(dir)
	for _, e := range all {
		if name := e.Name(); name != "testdata" {
			err = errors.Join(err, os.Symlink(filepath.Join(dir, name), filepath.Join(t.dir, name)))
		}
	}
	return t, err
}

// reaches returns the statements that an input reaches, or with an empty name all that are there.
func (t trial) reaches(name string) (map[string]bool, error) {
	pattern := "^" + t.target + "$"
	if name != "" {
		pattern += "/^" + name + "$"
		if err := t.copyTo(t.inputs, name); err != nil {
			return nil, err
		}
	}
	profile := filepath.Join(t.dir, "profile")
	cmd := exec.Command(t.binary, "-test.run", pattern, "-test.coverprofile", profile)
	cmd.Dir = t.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w\n%s", err, out)
	}
	text, err := os.ReadFile(profile)
	if err != nil {
		return nil, err
	}
	return reached(text), nil
}

// reached are the blocks of statements of a profile that were run.
func reached(profile []byte) map[string]bool {
	all := map[string]bool{}
	for line := range bytes.Lines(profile) {
		if block, ok := bytes.CutSuffix(bytes.TrimSpace(line), []byte(" 0")); !ok {
			at, _, _ := bytes.Cut(block, []byte(" "))
			all[string(at)] = true
		}
	}
	return all
}

func (t trial) copyTo(dir, name string) error {
	text, err := os.ReadFile(filepath.Join(t.cache, name))
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), text, 0o644)
}

// goSays is what a go command prints.
func goSays(args ...string) (string, error) {
	out, err := exec.Command("go", args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
}

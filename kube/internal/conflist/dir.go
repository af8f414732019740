package conflist

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/internal/infile"
)

// Dir is a directory of CNI configurations, or of plugins.
type Dir struct {
	Path string
	// step, if set, is called before and after each change.
	step func(string)
}

// maxFile is more than any configuration has: what is longer is something else.
const maxFile = 4 << 20

// maxProgram is more than any plugin has.
const maxProgram = 256 << 20

// ErrChanged reports that another writer was faster. Try again.
var ErrChanged = errors.New("another writer has changed it meanwhile")

// ErrLocked reports that another process held the directory's lock for too long.
var ErrLocked = errors.New("another process has locked it all the time")

// ErrReplaced reports a directory that has been removed while it was mounted: what is written there nobody reads, and
// another may be in its place. A container that is started anew gets that one.
var ErrReplaced = errors.New("the node's directory was removed, and this container still has the old one")

// Replaced returns [ErrReplaced] if it is so: a directory that has no name any more has no links.
func (d Dir) Replaced() error {
	var stat unix.Stat_t
	if err := unix.Stat(d.Path, &stat); err != nil {
		return nil //nolint:nilerr // who reads it says so
	}
	if stat.Nlink == 0 {
		return fmt.Errorf("%s: %w", d.Path, ErrReplaced)
	}
	return nil
}

// Result says what Install or Uninstall found and did.
type Result struct {
	// Primary is the name of the file with the primary network.
	Primary string
	// Steps are those taken.
	Steps []Step
}

// Read reads what matters of the directory.
func (d Dir) Read() (map[string]File, error) {
	dir, err := d.open(d.Path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	files := map[string]File{}
	for _, e := range entries {
		if e.IsDir() || !relevant(e.Name()) {
			continue
		}
		data, err := read(filepath.Join(d.Path, e.Name()))
		if errors.Is(err, fs.ErrNotExist) && e.Type()&fs.ModeSymlink == 0 {
			continue // it has gone since
		}
		files[e.Name()] = File{data, err}
	}
	return files, nil
}

// open opens a directory, and waits for nobody who could write into what is there.
func (d Dir) open(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// read reads a configuration.
func read(path string) ([]byte, error) {
	data, err := infile.Read(path, maxFile)
	switch {
	case errors.Is(err, infile.ErrKind):
		return nil, fmt.Errorf("%w: it is no regular file", ErrInvalid)
	case errors.Is(err, infile.ErrTooLarge):
		return nil, fmt.Errorf("%w: it has over %d bytes", ErrInvalid, maxFile)
	}
	return data, err
}

// Install puts the entry into the primary network's list.
func (d Dir) Install(e Entry) (Result, error) {
	return d.change(func(files map[string]File) (Result, error) {
		primary, steps, err := Install(files, e)
		return Result{primary, steps}, err
	})
}

// Uninstall takes the entry out of all lists. What can be done is done even if
// there is an error.
func (d Dir) Uninstall(pluginType string) (Result, error) {
	return d.change(func(files map[string]File) (Result, error) {
		steps, err := Uninstall(files, pluginType)
		return Result{Primary(files), steps}, err
	})
}

// change plans and takes steps while no other agent does.
func (d Dir) change(plan func(map[string]File) (Result, error)) (Result, error) {
	unlock, err := d.lock()
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	files, err := d.Read()
	if err != nil {
		return Result{}, err
	}
	planned, planErr := plan(files)
	done := Result{Primary: planned.Primary}
	for _, s := range planned.Steps {
		if err := d.take(s); err != nil {
			return done, errors.Join(planErr, fmt.Errorf("%s: %w", d.Path, err))
		}
		done.Steps = append(done.Steps, s)
	}
	if planErr != nil {
		return done, fmt.Errorf("%s: %w", d.Path, planErr)
	}
	return done, nil
}

// lock keeps other agents out, and takes away what one that was killed left.
// The lock is the directory's, so it ends with the process.
func (d Dir) lock() (unlock func(), err error) {
	f, err := d.open(d.Path)
	if err != nil {
		return nil, err
	}
	if err := flock(f, lockTime); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", d.Path, err)
	}
	left, err := filepath.Glob(filepath.Join(d.Path, temporary("*")))
	for _, name := range left {
		err = errors.Join(err, os.Remove(name))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// lockTime is how long to wait for another agent, which has the lock for as long
// as some files take to reach the disk. Whoever may read the directory can hold it,
// too.
const lockTime = 10 * time.Second

// flock takes the lock. Nothing tells when it is free: the system call that waits
// for it could not be ended.
func flock(f *os.File, most time.Duration) error {
	late := time.After(most)
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return err
		}
		select {
		case <-late:
			return fmt.Errorf("%w; lslocks on the node names the process", ErrLocked)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// temporary is the pattern of a name that no runtime reads.
func temporary(random string) string { return ".mesh-cni-" + random + ".tmp" }

// IsTemporary reports whether a file is one that is being written here: that it
// comes and goes says nothing.
func IsTemporary(name string) bool {
	ok, err := filepath.Match(temporary("*"), filepath.Base(name))
	return ok && err == nil
}

// take takes one step, and returns when it is on the disk.
func (d Dir) take(s Step) (err error) {
	switch s := s.(type) {
	case Write:
		err = d.write(s.Name, bytes.NewReader(s.Data), 0o644, func(path string) error {
			now, err := read(path)
			if errors.Is(err, fs.ErrNotExist) {
				now, err = nil, nil
			}
			if err == nil && !bytes.Equal(now, s.Was) {
				err = fmt.Errorf("%s: %w", s.Name, ErrChanged)
			}
			return err
		})
		if err != nil {
			return err
		}
	case Rename:
		d.at("rename " + s.From)
		if s.Was != nil {
			if now, err := read(filepath.Join(d.Path, s.From)); err != nil || !bytes.Equal(now, s.Was) {
				return errors.Join(err, fmt.Errorf("%s: %w", s.From, ErrChanged))
			}
		}
		if err = os.Rename(filepath.Join(d.Path, s.From), filepath.Join(d.Path, s.To)); err != nil {
			return err
		}
		d.at("renamed " + s.From)
	case Delete:
		d.at("delete " + s.Name)
		if err = os.Remove(filepath.Join(d.Path, s.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		d.at("deleted " + s.Name)
	default:
		return fmt.Errorf("unknown step %T", s)
	}
	return d.sync(d.Path)
}

func (d Dir) at(step string) {
	if d.step != nil {
		d.step(step)
	}
}

// write puts a file in place in one step: under a name of its own, on the
// disk, and then renamed. An owner and a mode that it had, it keeps; a link is
// followed. still is asked just before whether the place is as it was.
func (d Dir) write(name string, data io.Reader, mode fs.FileMode, still func(path string) error) error {
	path := filepath.Join(d.Path, name)
	target, err := filepath.EvalSymlinks(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && isLink(path):
		return fmt.Errorf("%s: the link's target is not here: %w", name, err)
	case errors.Is(err, fs.ErrNotExist):
		target = path
	case err != nil:
		return err
	}
	dir := filepath.Dir(target)
	d.at("create")
	f, err := os.CreateTemp(dir, temporary("*"))
	if err != nil {
		return err
	}
	err = d.fill(f, target, data, mode)
	if err == nil {
		err = still(target)
	}
	if err == nil {
		d.at("rename")
		err = os.Rename(f.Name(), target)
	}
	if err != nil {
		return errors.Join(about(err, f.Name(), target), os.Remove(f.Name()))
	}
	d.at("renamed")
	return d.sync(dir)
}

// about puts the name of what is to be written into an error, in place of that of
// the temporary file, which is another each time.
func about(err error, temporary, target string) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok && e.Path == temporary {
		e.Path = target
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok && e.Old == temporary {
		e.Old = "its new content"
	}
	return err
}

// fill writes a temporary file, closes it and returns when it is on the disk.
func (d Dir) fill(f *os.File, target string, data io.Reader, mode fs.FileMode) error {
	d.at("write")
	_, err := io.Copy(f, data)
	d.at("written")
	var stat unix.Stat_t
	if err == nil && unix.Stat(target, &stat) == nil {
		mode = fs.FileMode(stat.Mode).Perm()
		err = f.Chown(int(stat.Uid), int(stat.Gid))
	}
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	d.at("synced")
	return errors.Join(err, f.Close())
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// sync returns when the names in a directory are on the disk.
func (d Dir) sync(path string) error {
	f, err := d.open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // some file systems have nothing to do
		return err
	}
	d.at("directory synced")
	return nil
}

// InstallBinary puts a copy of a program into the directory, under its own
// name, and reports whether that was needed. A runtime that starts it
// meanwhile gets the old one or the new one.
func (d Dir) InstallBinary(source, name string) (changed bool, err error) {
	if strings.ContainsRune(name, '/') || name == "" {
		return false, fmt.Errorf("%q is not the name of a program", name)
	}
	data, err := infile.Read(source, maxProgram)
	if err != nil {
		return false, err
	}
	if len(data) == 0 {
		return false, fmt.Errorf("%s is empty", source)
	}
	unlock, err := d.lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	path := filepath.Join(d.Path, name)
	if now, err := infile.Read(path, maxProgram); err == nil && bytes.Equal(now, data) {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o555 == 0o555 {
			return false, nil
		}
	}
	// One that cannot be run keeps no mode: it would never be mended.
	mode := fs.FileMode(0o755)
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o555 != 0o555 {
		if err := os.Chmod(path, mode); err != nil {
			return false, err
		}
	}
	return true, d.write(name, bytes.NewReader(data), mode, func(string) error { return nil })
}

// RemoveBinary removes a program from the directory, unless a list in conf
// still has the entry: the runtime would fail every pod that it starts or stops.
func (d Dir) RemoveBinary(name string, conf Dir) error {
	unlock, err := conf.lock()
	switch {
	case errors.Is(err, fs.ErrNotExist): // no directory, no list
		unlock = func() {}
	case err != nil:
		return err
	}
	defer unlock()
	files, err := conf.Read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if names := Holding(files, name); len(names) > 0 {
		return fmt.Errorf("%s stays: it is still in %s of %s", filepath.Join(d.Path, name), strings.Join(names, ", "),
			conf.Path)
	}
	err = d.take(Delete{name})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

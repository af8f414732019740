// Package keeper keeps the plugin's binary and its entry in place on a node.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/kube/internal/conflist"
)

// Reasons for which the entry is written.
const (
	Installed = "installed" // for the first time
	Restored  = "restored"  // another writer had removed or changed it
)

// Place says what is to be where.
type Place struct {
	// Conf is the directory of configurations, and Bin that of plugins.
	Conf, Bin conflist.Dir
	// Source is the plugin's binary, to be copied.
	Source string
	Entry  conflist.Entry
	// Runtime says in which other directories the runtime finds plugins, or why what is in Conf and Bin is nothing to it.
	// Nil: nobody can say.
	Runtime func(context.Context) (elsewhere []string, err error)
}

// Remove takes out the entry, and then the binary.
func (p Place) Remove() (conflist.Result, error) {
	res, err := p.Conf.Uninstall(p.Entry.Type)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // no directory, no list
	}
	// It looks for itself whether a list is left that has need of it.
	return res, errors.Join(err, p.Bin.RemoveBinary(p.Entry.Type, p.Conf))
}

// Keeper keeps a place. Make one with [New].
type Keeper struct {
	place Place
	log   *slog.Logger
	// rewritten is called with the reason after each time that the entry was
	// written.
	rewritten func(reason string)
	unit      time.Duration // of pauses
	every     time.Duration // look even if nothing was heard of
	poll      time.Duration // the same, if nothing can be heard of
	watcher   func() (*fsnotify.Watcher, error)

	mu     sync.Mutex
	state  error
	file   string // with the entry
	held   bool   // the entry was in place once
	deaf   bool   // nothing is heard of changes, for want of inotify
	losses losses
}

// ErrNotYet is the state before the first look.
var ErrNotYet = errors.New("the CNI configuration has not been looked at yet")

// New makes a keeper that reports each time it has written the entry.
func New(p Place, log *slog.Logger, rewritten func(reason string)) *Keeper {
	return &Keeper{place: p, log: log, rewritten: rewritten, unit: time.Second, every: 30 * time.Second,
		poll: 2 * time.Second, watcher: fsnotify.NewWatcher, state: ErrNotYet}
}

// State is nil while everything is in place and nobody fights about it. Else
// it says what is wrong.
func (k *Keeper) State() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.state != nil {
		return k.state
	}
	if len(k.losses.recent(time.Now())) < fighting {
		return nil
	}
	files, err := k.place.Conf.Read()
	if err != nil {
		return err
	}
	return k.losses.report(time.Now(), k.file, opponent(files, filepath.Base(k.file)))
}

// File is the path of the list with the entry, once it is known.
func (k *Keeper) File() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.file
}

// Run keeps the place until ctx is done. What goes wrong is logged and tried
// again, but for [conflist.ErrReplaced], which this process cannot mend.
func (k *Keeper) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := k.watch(ctx)
		switch {
		case errors.Is(err, conflist.ErrReplaced):
			k.set(err)
			return err
		case err != nil && ctx.Err() == nil:
			k.set(fmt.Errorf("watch the CNI directories: %w", err))
			wait(ctx, 5*k.unit)
		}
	}
	return nil
}

// watch looks whenever something changes, and every now and then.
func (k *Keeper) watch(ctx context.Context) error {
	w, err := k.listen()
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOSPC),
		errors.Is(err, unix.ENOMEM):
		// inotify(7): max_user_instances or max_user_watches are used up, as on nodes with many pods of root's.
		return k.pollFor(ctx, err)
	case err != nil:
		return err
	}
	k.deaf = false
	defer func() { _ = w.Close() }()
	tick := time.NewTicker(k.every)
	defer tick.Stop()
	for {
		// Events that come meanwhile are for the next look.
		if err := k.look(ctx); err != nil {
			return err
		}
		if err := k.hear(ctx, w, tick.C); err != nil || ctx.Err() != nil {
			return err
		}
		drain(w.Events)
	}
}

// listen watches the directories.
func (k *Keeper) listen() (*fsnotify.Watcher, error) {
	w, err := k.watcher()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{k.place.Conf.Path, k.place.Bin.Path} {
		if err := w.Add(dir); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), w.Close())
		}
	}
	return w, nil
}

// pollFor looks often, for a while: then there may be inotify again.
func (k *Keeper) pollFor(ctx context.Context, why error) error {
	if !k.deaf {
		k.deaf = true
		k.log.WarnContext(ctx, "changes of the CNI directories are not told, so they are looked at all the time; raise "+
			"fs.inotify.max_user_instances or max_user_watches on the node", "every", k.poll.String(), "err", why)
	}
	until := time.Now().Add(k.every)
	for ctx.Err() == nil && time.Now().Before(until) {
		if err := k.look(ctx); err != nil {
			return err
		}
		wait(ctx, k.poll)
	}
	return nil
}

// hear returns when there is a reason to look again, or ctx is done. The error
// is the end of the watch.
func (k *Keeper) hear(ctx context.Context, w *fsnotify.Watcher, tick <-chan time.Time) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Events:
			switch {
			case !ok:
				return errors.New("the watch has ended")
			case conflist.IsTemporary(e.Name):
				// Ours: a write that fails makes and removes one, and would
				// else be the reason for the next.
				continue
			case e.Has(fsnotify.Remove|fsnotify.Rename) && (e.Name == k.place.Conf.Path || e.Name == k.place.Bin.Path):
				return fmt.Errorf("%s has been removed", e.Name) // a new one is another inode
			}
		case err := <-w.Errors:
			k.log.WarnContext(ctx, "events of the CNI directories were lost", "err", err)
		case <-tick:
		}
		return nil
	}
}

// drain throws away what has happened before the next look.
func drain(events <-chan fsnotify.Event) {
	for {
		select {
		case _, ok := <-events:
			if !ok {
				return
			}
		default:
			return
		}
	}
}

// look puts in place what is not. Its error is one that looking again does not mend.
func (k *Keeper) look(ctx context.Context) error {
	for _, d := range []conflist.Dir{k.place.Conf, k.place.Bin} {
		if err := d.Replaced(); err != nil {
			return err
		}
	}
	var elsewhere []string
	if k.place.Runtime != nil {
		var err error
		if elsewhere, err = k.place.Runtime(ctx); err != nil {
			k.set(err)
			return nil
		}
	}
	k.put(ctx, elsewhere)
	return nil
}

// put puts binary and entry in place. elsewhere are directories in which the runtime finds plugins, too.
func (k *Keeper) put(ctx context.Context, elsewhere []string) {
	changed, err := k.place.Bin.InstallBinary(k.place.Source, k.place.Entry.Type)
	if err != nil {
		// Without the binary there must be no entry.
		k.set(fmt.Errorf("install %s: %w", filepath.Join(k.place.Bin.Path, k.place.Entry.Type), err))
		return
	}
	if changed {
		k.log.InfoContext(ctx, "installed the plugin", "path", filepath.Join(k.place.Bin.Path, k.place.Entry.Type))
	}
	files, err := k.place.Conf.Read()
	if err != nil {
		k.set(err)
		return
	}
	primary, steps, err := conflist.Install(files, k.place.Entry)
	if err != nil {
		k.set(fmt.Errorf("%s: %w", k.place.Conf.Path, err))
		return
	}
	if err := k.place.OthersThere(files[primary], elsewhere); err != nil {
		k.set(fmt.Errorf("%s: %w", filepath.Join(k.place.Conf.Path, primary), err))
		return
	}
	if len(steps) == 0 {
		k.inPlace(primary)
		return
	}
	if lost := k.lose(); lost != nil {
		now := time.Now()
		pause := lost.pause(now, k.unit)
		err := lost.report(now, filepath.Join(k.place.Conf.Path, primary), opponent(files, primary))
		k.log.WarnContext(ctx, "another writer has removed our entry or changed it", "file", primary, "times", len(lost),
			"pause", pause.String())
		if pause > 0 {
			k.set(fmt.Errorf("%w; writing it again in %v", err, pause))
			wait(ctx, pause)
		}
	}
	if ctx.Err() != nil {
		return
	}
	res, err := k.place.Conf.Install(k.place.Entry)
	if err != nil {
		// ErrChanged among them: the change is the next event.
		k.set(err)
		return
	}
	if len(res.Steps) > 0 {
		reason := Installed
		if k.wasHeld() {
			reason = Restored
		}
		k.rewritten(reason)
		k.log.InfoContext(ctx, "wrote our entry", "file", res.Primary, "reason", reason)
	}
	k.lookAgain(res)
}

// OthersThere reports plugins of a list that are not where ours is, nor elsewhere: then the runtime looks for plugins
// in another directory, and with our entry in its list no pod of the node would start.
func (p Place) OthersThere(list conflist.File, elsewhere []string) error {
	dirs := append([]string{p.Bin.Path}, elsewhere...)
	for _, name := range conflist.Types(list.Data) {
		there := name == p.Entry.Type || slices.ContainsFunc(dirs, func(dir string) bool {
			// A link may lead to where only the node sees a file, as NixOS has them.
			_, err := os.Lstat(filepath.Join(dir, name))
			return err == nil
		})
		if !there {
			return fmt.Errorf("the list names the plugin %s, which is not in %s: the runtime finds its plugins in another "+
				"directory, or it is still to be installed; mount that directory here, and name it with --cni-bin-dir", name,
				strings.Join(dirs, ", "))
		}
	}
	return nil
}

// lookAgain finds out in which file the entry is now: a configuration of one
// plugin has become a list.
func (k *Keeper) lookAgain(res conflist.Result) {
	files, err := k.place.Conf.Read()
	if err != nil {
		k.set(err)
		return
	}
	primary, steps, err := conflist.Install(files, k.place.Entry)
	switch {
	case err != nil:
		k.set(err)
	case len(steps) == 0:
		k.inPlace(primary)
	default:
		k.set(fmt.Errorf("%s: %w", res.Primary, conflist.ErrChanged))
	}
}

func (k *Keeper) inPlace(file string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.state, k.file, k.held = nil, filepath.Join(k.place.Conf.Path, file), true
}

func (k *Keeper) wasHeld() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held
}

// lose notes that the entry is gone, and returns the recent losses; nil if it
// was never there.
func (k *Keeper) lose() losses {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.held {
		return nil
	}
	k.losses = k.losses.add(time.Now())
	return k.losses
}

func (k *Keeper) set(err error) {
	k.mu.Lock()
	before := k.state
	k.state = err
	k.mu.Unlock()
	if before == nil || before.Error() != err.Error() {
		k.log.Warn("our entry is not in place", "err", err)
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

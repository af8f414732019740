// Package keeper keeps the plugin's binary and its entry in place on a node.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

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

	mu     sync.Mutex
	state  error
	file   string // with the entry
	held   bool   // the entry was in place once
	losses losses
}

// ErrNotYet is the state before the first look.
var ErrNotYet = errors.New("the CNI configuration has not been looked at yet")

// New makes a keeper that reports each time it has written the entry.
func New(p Place, log *slog.Logger, rewritten func(reason string)) *Keeper {
	return &Keeper{place: p, log: log, rewritten: rewritten, unit: time.Second, every: 30 * time.Second, state: ErrNotYet}
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
// again.
func (k *Keeper) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := k.watch(ctx); err != nil && ctx.Err() == nil {
			k.set(fmt.Errorf("watch the CNI directories: %w", err))
			wait(ctx, 5*k.unit)
		}
	}
}

// watch looks whenever something changes, and every now and then.
func (k *Keeper) watch(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer func() { _ = w.Close() }()
	for _, dir := range []string{k.place.Conf.Path, k.place.Bin.Path} {
		if err := w.Add(dir); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	tick := time.NewTicker(k.every)
	defer tick.Stop()
	for {
		// Events that come meanwhile are for the next look.
		k.look(ctx)
		if err := k.hear(ctx, w, tick.C); err != nil || ctx.Err() != nil {
			return err
		}
		drain(w.Events)
	}
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

// look puts in place what is not.
func (k *Keeper) look(ctx context.Context) {
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
	switch {
	case err != nil:
		k.set(fmt.Errorf("%s: %w", k.place.Conf.Path, err))
		return
	case len(steps) == 0:
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

package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/kube/internal/conflist"
)

const cilium = `{"cniVersion":"1.0.0","name":"cilium","plugins":[{"type":"cilium-cni"}]}`

type scene struct {
	*Keeper
	place Place
	file  string
	stop  func()
	ended error // once it is stopped

	mu      sync.Mutex
	reasons []string
}

func (s *scene) wrote() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.reasons)
}

// play starts a keeper over a directory with one file.
func play(t *testing.T, name, text string, change ...func(*scene)) *scene {
	t.Helper()
	root := t.TempDir()
	s := &scene{place: Place{
		Conf: conflist.Dir{Path: filepath.Join(root, "net.d")}, Bin: conflist.Dir{Path: filepath.Join(root, "bin")},
		Source: filepath.Join(root, "source"),
		Entry: conflist.Entry{Type: "mesh-cni", JSON: []byte(`{"type":"mesh-cni","logLevel":"debug"}`),
			Versions: []string{"1.0.0"}},
	}}
	s.file = filepath.Join(s.place.Conf.Path, name)
	if err := errors.Join(os.Mkdir(s.place.Conf.Path, 0o755), os.Mkdir(s.place.Bin.Path, 0o755),
		os.WriteFile(s.place.Source, []byte("x"), 0o755), s.others("cilium-cni", "ptp", "calico")); err != nil {
		t.Fatal(err)
	}
	if text != "" {
		s.write(t, text)
	}
	s.Keeper = New(s.place, slog.New(slog.NewTextHandler(io.Discard, nil)), func(reason string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reasons = append(s.reasons, reason)
	})
	s.unit = 20 * time.Millisecond
	for _, f := range change {
		f(s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.ended = s.Run(ctx) }()
	s.stop = func() { cancel(); <-done }
	t.Cleanup(s.stop)
	return s
}

// others puts other plugins where ours is to be.
func (s *scene) others(names ...string) (err error) {
	for _, name := range names {
		err = errors.Join(err, os.WriteFile(filepath.Join(s.place.Bin.Path, name), nil, 0o755))
	}
	return err
}

// write puts a file in place as a careful writer does.
func (s *scene) write(t *testing.T, text string) {
	t.Helper()
	temporary := filepath.Join(filepath.Dir(s.place.Source), "new")
	if err := errors.Join(os.WriteFile(temporary, []byte(text), 0o600), os.Rename(temporary, s.file)); err != nil {
		t.Error(err)
	}
}

// until waits for what must come soon.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline, tick := time.After(10*time.Second), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-deadline:
			t.Fatalf("not within ten seconds: %s", what)
		case <-tick.C:
		}
	}
}

func (s *scene) has() bool {
	b, err := os.ReadFile(s.file)
	return err == nil && slices.Contains(conflist.Types(b), "mesh-cni")
}

// TestKept: what others change is put back: the file, the entry, one field of
// it, the binary.
func TestKept(t *testing.T) {
	t.Parallel()
	s := play(t, "05-cilium.conflist", "")
	until(t, "there is no network yet", func() bool { return errors.Is(s.State(), conflist.ErrNoNetwork) })
	s.write(t, cilium)
	until(t, "the entry is there", func() bool { return s.State() == nil && s.has() })
	if s.File() != s.file {
		t.Errorf("it is in %s", s.File())
	}
	b, _ := os.ReadFile(s.file)
	s.write(t, strings.Replace(string(b), `"debug"`, `"info"`, 1))
	until(t, "the field is put back",
		func() bool { b, _ := os.ReadFile(s.file); return strings.Contains(string(b), `"debug"`) })
	program := filepath.Join(s.place.Bin.Path, "mesh-cni")
	if err := os.Remove(program); err != nil {
		t.Error(err)
	}
	until(t, "the binary is put back", func() bool { _, err := os.Stat(program); return err == nil })
	until(t, "it counts", func() bool { return slices.Equal(s.wrote(), []string{Installed, Restored}) })
	// A new primary network.
	first := filepath.Join(s.place.Conf.Path, "00-first.conflist")
	if err := os.WriteFile(first, []byte(strings.Replace(cilium, "cilium-cni", "ptp", 1)), 0o600); err != nil {
		t.Error(err)
	}
	until(t, "the entry follows", func() bool { return s.File() == first && s.State() == nil })
}

// TestFight: an opponent is not overrun with writes, and is named.
func TestFight(t *testing.T) {
	t.Parallel()
	s := play(t, "05-cilium.conflist", cilium)
	until(t, "it is in place", s.has)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(time.Millisecond); ctx.Err() == nil; <-tick.C {
			if s.has() {
				s.write(t, cilium)
			}
		}
	})
	until(t, "it is a fight", func() bool {
		err := s.State()
		return err != nil && strings.Contains(err.Error(), "cni.exclusive=false") && strings.Contains(err.Error(), s.file) &&
			strings.Contains(err.Error(), "6 times in the last minute")
	})
	cancel()
	wg.Wait()
	// Without pauses there is one for every tick of the other, hundreds in all.
	if n := len(s.wrote()); n > 30 {
		t.Errorf("%d writes", n)
	}
	until(t, "it wins in the end", s.has)
	if err := s.State(); err == nil {
		t.Error("a fight a moment ago, and all is well")
	}
}

func TestLosses(t *testing.T) {
	var l losses
	now := time.Unix(1000, 0)
	var pauses []time.Duration
	for range 10 {
		l = l.add(now)
		p := l.pause(now, time.Second)
		pauses = append(pauses, p/time.Second)
		now = now.Add(p)
	}
	if want := []time.Duration{0, 0, 1, 2, 4, 8, 16, 30, 4, 4}; !slices.Equal(pauses, want) {
		t.Errorf("pauses of %d s, want %d", pauses, want)
	}
	if l.report(now.Add(window), "f", "x") != nil || l.report(now, "f", "x") == nil {
		t.Error("a fight is over after a minute, not before")
	}
}

// TestRemove: entry, then binary; and again; and with nothing there.
func TestRemove(t *testing.T) {
	t.Parallel()
	const text = `{"cniVersion":"1.0.0","name":"n","type":"ptp"}`
	s := play(t, "10-x.conf", text)
	until(t, "it is in place", func() bool { return s.State() == nil })
	if s.File() != s.file+"-mesh-cni.conflist" {
		t.Errorf("it is in %s", s.File())
	}
	s.stop()
	for range 2 {
		if _, err := s.place.Remove(); err != nil {
			t.Error(err)
		}
	}
	b, err := os.ReadFile(s.file)
	all, _ := os.ReadDir(s.place.Conf.Path)
	_, gone := os.Stat(filepath.Join(s.place.Bin.Path, "mesh-cni"))
	bin, _ := os.ReadDir(s.place.Bin.Path)
	if err != nil || string(b) != text || len(all) != 1 || gone == nil || len(bin) != 3 {
		t.Errorf("%s, %v; left %v, %v", b, err, all, bin)
	}
	if err := os.RemoveAll(s.place.Conf.Path); err != nil {
		t.Error(err)
	}
	if _, err := s.place.Remove(); err != nil {
		t.Errorf("no directory: %v", err)
	}
}

// TestDeaf: without inotify instances, changes are seen all the same.
func TestDeaf(t *testing.T) {
	t.Parallel()
	s := play(t, "05-cilium.conflist", cilium, func(s *scene) {
		s.watcher = func() (*fsnotify.Watcher, error) { return nil, unix.EMFILE }
		s.poll = 5 * time.Millisecond
	})
	until(t, "the entry is there", func() bool { return s.State() == nil && s.has() })
	s.write(t, cilium)
	until(t, "the entry is back", s.has)
	if err := os.Remove(filepath.Join(s.place.Bin.Path, "mesh-cni")); err != nil {
		t.Error(err)
	}
	until(t, "the binary is back", func() bool {
		_, err := os.Stat(filepath.Join(s.place.Bin.Path, "mesh-cni"))
		return err == nil
	})
	// There is inotify again: then it is used.
	s = play(t, "05-cilium.conflist", cilium, func(s *scene) {
		calls, real := 0, s.watcher
		s.watcher = func() (*fsnotify.Watcher, error) {
			if calls++; calls == 1 {
				return nil, unix.ENOSPC
			}
			return real()
		}
		s.poll, s.every = time.Millisecond, 10*time.Millisecond
	})
	until(t, "the entry is there", func() bool { return s.State() == nil && s.has() })
	s.write(t, cilium)
	until(t, "the entry is back", s.has)
}

// TestReplaced: a mounted directory that the node has removed is no place to write to,
// and only a new container mends it.
func TestReplaced(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"net.d", "bin"} {
		// As in a container: the path leads to what was opened once.
		var real string
		s := play(t, "05-cilium.conflist", cilium, func(s *scene) {
			dir := &s.Keeper.place.Conf
			if which == "bin" {
				dir = &s.Keeper.place.Bin
			}
			real = dir.Path
			f, err := os.Open(real)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() })
			dir.Path = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
			s.every = 10 * time.Millisecond
		})
		until(t, "the entry is there", func() bool { return s.State() == nil && s.has() })
		// The keeper puts back what is missing meanwhile.
		until(t, "the directory is gone", func() bool { return os.RemoveAll(real) == nil })
		if err := os.Mkdir(real, 0o755); err != nil {
			t.Fatal(err)
		}
		until(t, "it is noticed", func() bool { return errors.Is(s.State(), conflist.ErrReplaced) })
		s.stop()
		if !errors.Is(s.ended, conflist.ErrReplaced) {
			t.Errorf("%s: it ended with %v", which, s.ended)
		}
	}
}

// TestOtherDirectory: where the runtime does not look, no entry is written.
func TestOtherDirectory(t *testing.T) {
	t.Parallel()
	s := play(t, "05-x.conflist", strings.Replace(cilium, "cilium-cni", "azure-vnet", 1))
	until(t, "it is said", func() bool {
		err := s.State()
		return err != nil && strings.Contains(err.Error(), "the plugin azure-vnet, which is not in") &&
			strings.Contains(err.Error(), "--cni-bin-dir")
	})
	if s.has() || len(s.wrote()) > 0 {
		t.Error("the entry is written all the same")
	}
	if err := s.others("azure-vnet"); err != nil {
		t.Fatal(err)
	}
	until(t, "the entry is there once the other is", func() bool { return s.State() == nil && s.has() })

	// The node's link leads to where this mount does not reach.
	s = play(t, "05-x.conflist", strings.Replace(cilium, "cilium-cni", "azure-vnet", 1), func(s *scene) {
		link := filepath.Join(s.Keeper.place.Bin.Path, "azure-vnet")
		if err := os.Symlink("/nix/store/somewhere/azure-vnet", link); err != nil {
			t.Fatal(err)
		}
	})
	until(t, "the entry is there beside a link", func() bool { return s.State() == nil && s.has() })

	var mu sync.Mutex
	var elsewhere []string
	wrong := errors.New("the runtime reads /elsewhere")
	s = play(t, "05-x.conflist", strings.Replace(cilium, "cilium-cni", "azure-vnet", 1), func(s *scene) {
		s.Keeper.place.Runtime = func(context.Context) ([]string, error) {
			mu.Lock()
			defer mu.Unlock()
			return elsewhere, wrong
		}
		s.every = 5 * time.Millisecond
	})
	until(t, "what the runtime says is the state", func() bool { return errors.Is(s.State(), wrong) })
	if s.has() {
		t.Error("the entry is written all the same")
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "azure-vnet"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	elsewhere, wrong = []string{other}, nil
	mu.Unlock()
	until(t, "the entry is there", func() bool { return s.State() == nil && s.has() })
}

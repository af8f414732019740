package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Sockets are where runtimes listen on nodes: those of distributions that bring one
// of their own first, since such a node may have another for other purposes.
func Sockets() []string {
	return []string{
		"/run/k3s/containerd/containerd.sock", "/run/k0s/containerd.sock", "/var/snap/microk8s/common/run/containerd.sock",
		"/run/crio/crio.sock", "/run/containerd/containerd.sock",
	}
}

// Node is a node with a runtime, as a process in a container sees it.
type Node struct {
	// Root is the node's file system: /proc/1/root. Where it cannot be entered nothing is known.
	Root string
	// Socket is where the runtime listens, as the node calls it. Empty: one of [Sockets].
	Socket string
	// Patience is how long the runtime may take to answer. Zero: 2 seconds.
	Patience time.Duration
}

// Compare compares two directories, as the process calls them, with those that the
// runtime reads. elsewhere are others in which it finds plugins. The error says that
// it reads others than these; where the runtime does not answer, nothing is known, and
// that is no error.
func (n Node) Compare(ctx context.Context, confDir, binDir string) (elsewhere []string, err error) {
	root, err := os.OpenFile(n.Root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil //nolint:nilerr // nothing is known
	}
	defer root.Close()
	reads, socket, err := n.ask(ctx, root)
	if err != nil {
		return nil, nil //nolint:nilerr // nothing is known
	}
	says := func(what, flag, ours, theirs string) error {
		return fmt.Errorf("the runtime at %s reads %s from %s on the node, which is not %s here: mount that directory, and "+
			"name it with %s; or name another runtime with --cri-socket", socket, what, theirs, ours, flag)
	}
	if differs(root, confDir, reads.ConfDir) {
		return nil, says("its lists", "--cni-conf-dir", confDir, reads.ConfDir)
	}
	if !slices.ContainsFunc(reads.PluginDirs, func(dir string) bool { return !differs(root, binDir, dir) }) {
		return nil, says("plugins", "--cni-bin-dir", binDir, strings.Join(reads.PluginDirs, ", "))
	}
	for _, dir := range reads.PluginDirs {
		elsewhere = append(elsewhere, filepath.Join(n.Root, dir))
	}
	return elsewhere, nil
}

// ask asks the first runtime that answers.
func (n Node) ask(ctx context.Context, root *os.File) (Reads, string, error) {
	sockets := []string{n.Socket}
	if n.Socket == "" {
		sockets = Sockets()
	}
	patience := n.Patience
	if patience == 0 {
		patience = 2 * time.Second
	}
	var errs []error
	for _, path := range sockets {
		socket, err := inside(root, path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		within, cancel := context.WithTimeout(ctx, patience)
		reads, err := Ask(within, here(socket))
		cancel()
		_ = socket.Close() // only looked at
		if err == nil {
			return reads, path, nil
		}
		errs = append(errs, err)
	}
	return Reads{}, "", errors.Join(errs...)
}

// differs reports whether a directory is known to be another than that of the node.
func differs(root *os.File, ours, theirs string) bool {
	our, err := os.Stat(ours)
	if err != nil {
		return false
	}
	dir, err := inside(root, theirs)
	if err != nil {
		return errors.Is(err, os.ErrNotExist) // it looks where nothing is
	}
	defer dir.Close()
	their, err := os.Stat(here(dir))
	return err == nil && !os.SameFile(our, their)
}

// inside opens what a path is on the node. Its links are the node's, too: /var/run
// leads to the node's /run, not to that of the container.
func inside(root *os.File, path string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(int(root.Fd()), path, &how)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// here is a path to an open file.
func here(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/ruleset"
)

// each calls fn with the program of each family that lists rules, by go-iptables.
func (r *Runner) each(ctx context.Context, fn func(ruleset.Family, string, goIPTables) error) error {
	return untilEnd(ctx, func() error {
		var errs []error
		for _, f := range families() {
			if r.missing[f] != nil {
				continue
			}
			err := ctx.Err()
			path := ""
			if err == nil {
				path, err = r.lister(f)
			}
			var h goIPTables
			if err == nil {
				h, err = goiptables.New(goiptables.Path(path), goiptables.IPFamily(protocols()[f]),
					goiptables.Timeout(r.o.seconds()))
			}
			if err == nil {
				err = fn(f, path, h)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", f, err))
			}
		}
		return errors.Join(errs...)
	})
}

func protocols() map[ruleset.Family]goiptables.Protocol {
	return map[ruleset.Family]goiptables.Protocol{
		ruleset.IPv4: goiptables.ProtocolIPv4, ruleset.IPv6: goiptables.ProtocolIPv6}
}

// untilEnd runs fn, which starts programs on the calling thread and waits for each, and kills those that are at work
// when ctx ends: go-iptables takes no context.
func untilEnd(ctx context.Context, fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	file := fmt.Sprintf("/proc/self/task/%d/children", unix.Gettid())
	earlier, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w: a program that hangs could not be ended, since the kernel does not list the children of a "+
			"thread (CONFIG_PROC_CHILDREN): %w", ruleset.ErrUnsupported, err)
	}
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		for {
			killChildren(file, strings.Fields(string(earlier)))
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond): // fn may have been about to start one
			}
		}
	})
	err = fn()
	close(done)
	watch.Wait()
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// killChildren kills the children of a thread that a file in /proc lists, but for earlier ones. A process that is
// listed after it was opened is the one that was opened.
func killChildren(file string, earlier []string) {
	listed := func() []string {
		text, _ := os.ReadFile(file) // the thread is there
		return strings.Fields(string(text))
	}
	for _, child := range listed() {
		if slices.Contains(earlier, child) {
			continue
		}
		pid, _ := strconv.Atoi(child)
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		if slices.Contains(listed(), child) {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // or it has ended
		}
		_ = unix.Close(fd)
	}
}

//go:build linux

// Command profile writes profiles of applies: where the processor's time goes, what is allocated, and a trace of what
// the runtime does. The applies are in this process, each in an empty network namespace, and with -again once more where
// nothing is to be done. The start of a program, which comes before the apply in a run of mesh-init, is not in it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"runtime/trace"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/settings"
)

func main() {
	dir := flag.String("o", "bin/profile", "`directory` to write to")
	runs := flag.Int("runs", 300, "how many applies")
	again := flag.Bool("again", false, "apply twice in each namespace: the second time nothing is changed")
	config := flag.String("config", "", "`file` with the configuration; none: the default")
	backend := flag.String("backend", string(dataplane.BackendNFT), "backend")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := profile(ctx, *dir, *runs, *again, *config, dataplane.Backend(*backend)); err != nil {
		fmt.Fprintln(os.Stderr, "profile:", err)
		os.Exit(1)
	}
}

func profile(ctx context.Context, dir string, runs int, again bool, config string, backend dataplane.Backend) error {
	c := intercept.Default()
	if config != "" {
		var err error
		if c, err = settings.LoadFile(config); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	one := func() error { return apply(ctx, c, backend, again) }
	if err := one(); err != nil { // what is done once in a process is no part of it
		return err
	}

	cpu, err := os.Create(filepath.Join(dir, "cpu.pprof"))
	if err != nil {
		return err
	}
	runtime.SetCPUProfileRate(1000) // applies are short. StartCPUProfile says that it is set already, and goes on
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return err
	}
	for range runs {
		if err := one(); err != nil {
			return err
		}
	}
	pprof.StopCPUProfile()
	if err := cpu.Close(); err != nil {
		return err
	}

	runtime.MemProfileRate = 1
	if err := one(); err != nil {
		return err
	}
	if err := write(dir, "heap.pprof", func(f *os.File) error { return pprof.Lookup("allocs").WriteTo(f, 0) }); err != nil {
		return err
	}
	err = write(dir, "trace.out", func(f *os.File) error {
		if err := trace.Start(f); err != nil {
			return err
		}
		defer trace.Stop()
		return one()
	})
	if err != nil {
		return err
	}
	fmt.Printf("To look at them:\n"+
		"  go tool pprof -top %[1]s/cpu.pprof                              where the time of %[2]d applies goes\n"+
		"  go tool pprof -sample_index=alloc_space -top %[1]s/heap.pprof   what an apply allocates, since the process began\n"+
		"  go tool pprof -http=localhost:8080 %[1]s/cpu.pprof              the same as a graph, in a browser\n"+
		"  go tool trace %[1]s/trace.out                                   what runs when, in one apply\n", dir, runs)
	return nil
}

func write(dir, name string, fill func(*os.File) error) error {
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Close())
}

// apply makes an empty network namespace, and applies there once or twice.
func apply(ctx context.Context, c intercept.Config, b dataplane.Backend, again bool) (err error) {
	s, err := dataplane.OpenNew(ctx, dataplane.Pod{Backend: b})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	_, err = s.Apply(ctx, c)
	if err == nil && again {
		_, err = s.Apply(ctx, c)
	}
	return err
}

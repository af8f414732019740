//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

func TestMain(m *testing.M) {
	all := map[string]func(){}
	for _, name := range []string{"mesh-init", "linkerd2-proxy-init", "linkerd2-network-validator", "kumactl"} {
		all[name] = main
	}
	all["listen-at"] = listenAt
	testscript.Main(m, all)
}

// listenAt listens at TCP ports, says so, and stays until it is killed.
func listenAt() {
	for _, port := range os.Args[1:] {
		if _, err := net.Listen("tcp", ":"+port); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	fmt.Println("ready")
	<-ended
}

// scriptCommands are the words that the scripts have besides testscript's.
var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	// exits CODE COMMAND... runs a command that has to end with the code.
	"exits": func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 2 {
			ts.Fatalf("usage: exits CODE COMMAND...")
		}
		err := ts.Exec(args[1], args[2:]...)
		code := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			code = exit.ExitCode()
		} else if err != nil {
			ts.Fatalf("%s: %v", args[1], err)
		}
		if want, err := strconv.Atoi(args[0]); err != nil || code != want {
			ts.Fatalf("%q: exit code %d, want %s", args[1:], code, args[0])
		}
	},
	// needs PROGRAM... is for what follows in the script.
	"needs": func(ts *testscript.TestScript, _ bool, args []string) {
		for _, program := range args {
			netlab.RequireProgram(ts.Value("t").(netlab.TB), program)
		}
	},
}

// TestScripts runs what needs no privilege.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		Cmds:                scriptCommands,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// TestKernelScripts runs what acts on a network namespace. Each script has one
// of its own at $NETNS.
func TestKernelScripts(t *testing.T) {
	netlab.Require(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script/kernel",
		Cmds:                scriptCommands,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			n, err := netlab.NewNamespace()
			if err != nil {
				return err
			}
			env.Defer(func() {
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			})
			env.Setenv("NETNS", n.Path())
			env.Values["t"] = env.T()
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name != "hostnetns" {
				return false, errors.New("unknown condition " + name)
			}
			// Linux shows it in the namespace it booted with alone.
			_, err := os.Stat("/proc/sys/net/core/dev_weight")
			return err == nil, nil
		},
	})
}

//go:build linux && gvisor

// Package gvisor runs mesh-init in gVisor, and traffic through the rules that it writes there. `make gvisor` builds
// runsc and runs it.
//
// The tests are three in one program: those that `go test` starts, in network and mount namespaces of their own; those
// that runsc then runs in a sandbox (TestInside); and the processes there that are the proxy, an app and a client.
package gvisor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mesh-intercept/intercept/testing/program"
)

const (
	roleEnv  = "MESH_TEST_ROLE"
	runscEnv = "MESH_TEST_RUNSC" // the path of runsc
	initEnv  = "MESH_TEST_INIT"  // that of mesh-init
)

func TestMain(m *testing.M) {
	code, err := 0, error(nil)
	switch os.Getenv(roleEnv) {
	case "":
		code, err = ownNamespaces()
	case "node":
		if err = setUpNode(); err == nil {
			code = m.Run()
		}
	case "sandbox":
		code = m.Run()
	default:
		err = role(os.Getenv(roleEnv), os.Args[1:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// ownNamespaces runs this program once more where nobody else's interfaces and mounts are.
func ownNamespaces() (code int, err error) {
	runsc := os.Getenv(runscEnv)
	if runsc == "" {
		return 1, fmt.Errorf("%s does not name runsc: run make gvisor, which builds it", runscEnv)
	}
	if os.Geteuid() != 0 {
		return 1, fmt.Errorf("run it as root: it takes namespaces")
	}
	dir, err := os.MkdirTemp("", "gvisor")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	meshInit, self := filepath.Join(dir, "mesh-init"), filepath.Join(dir, "test")
	if err := program.Build(meshInit, "cmd/mesh-init"); err != nil {
		return 1, err
	}
	built, err := os.Executable()
	if err != nil {
		return 1, err
	}
	// Other users run them, too.
	for _, cmd := range [][]string{{"chmod", "0755", dir}, {"cp", built, self}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			return 1, fmt.Errorf("%v: %w: %s", cmd, err, out)
		}
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleEnv+"=node", initEnv+"="+meshInit)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	err = cmd.Run()
	if cmd.ProcessState != nil && cmd.ProcessState.Exited() {
		return cmd.ProcessState.ExitCode(), nil
	}
	return 1, err
}

// setUpNode prepares what runsc takes: a default route, and a directory for the names of its network namespaces.
func setUpNode() error {
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/run/netns", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount a directory over /run/netns: %w", err)
	}
	for _, cmd := range []string{"link set lo up", "link add up0 type veth peer name up1", "link set up0 up",
		"link set up1 up", "addr add 198.51.100.1/24 dev up0", "route add default via 198.51.100.2"} {
		if out, err := exec.Command("ip", strings.Fields(cmd)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", cmd, err, out)
		}
	}
	return nil
}

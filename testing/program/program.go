// Package program builds the programs of this repository for tests.
package program

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// module is the one of the library, mesh-init and mesh-cni.
const module = "github.com/mesh-intercept/intercept"

// Build compiles a program of the library's module as `make build` does. Source
// is the program's directory in the module, as in "cmd/mesh-cni". A test of
// either module can call it.
func Build(output, source string) error {
	output, err := filepath.Abs(output)
	if err != nil {
		return err
	}
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return fmt.Errorf("look for the directory of %s: %w", module, err)
	}
	args := []string{"build", "-trimpath", "-ldflags", "-s -w", "-o", output}
	for plain := range strings.FieldsSeq("github.com golang.org go.yaml.in crypto encoding fmt log net os reflect regexp syscall text time") {
		args = append(args, "-gcflags", plain+"/...=-l")
	}
	for _, hot := range []string{"net/netip", "encoding/binary", module + "/nft", module + "/internal/nlattr"} {
		args = append(args, "-gcflags", hot+"=")
	}
	cmd := exec.Command("go", append(args, "./"+source)...)
	cmd.Dir = strings.TrimSpace(string(dir))
	// What ships is built from the versions in go.mod, not from those of go.work.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

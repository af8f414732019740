// Command mesh-cni is a chained CNI plugin that sends the connections of
// annotated pods through their sidecar. The container runtime runs it: see
// docs/cni.md.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/mesh-intercept/intercept/dataplane"
)

func main() {
	command := os.Getenv("CNI_COMMAND")
	if command == "" {
		os.Exit(byHand(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(run(command, os.Stdin, os.Stdout))
}

// versions are those of the CNI specification that are spoken.
func versions() []string { return []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// run is one call of the plugin. It returns the exit code.
//
// Before skel come the calls that need none of it: a DEL, which skel would fail
// over an entry or a version that it does not know, so that the pod could never
// be removed; and an ADD of a pod that is not ours, for which half of the time
// went into reading the same JSON again.
func run(command string, stdin io.Reader, stdout io.Writer) int {
	p := &plugin{plane: func(p dataplane.Pod) plane { return p }, begun: time.Now()}
	var err error
	switch command {
	case "DEL":
		// The rules go with the namespace. The runtime is not left with what it
		// has to say.
		_, _ = io.Copy(io.Discard, stdin)
		return 0
	case "ADD":
		err = p.addFrom(stdin)
	default:
		err = p.call()
	}
	text := p.result
	if text == nil && err != nil {
		text = p.failure(err)
	}
	if _, ioErr := stdout.Write(text); ioErr != nil {
		fmt.Fprintln(os.Stderr, "mesh-cni: the result could not be written:", ioErr)
		return 1
	}
	if p.left != nil {
		p.left()
	}
	if p.result == nil && err != nil {
		return 1
	}
	return 0
}

// addFrom is an ADD with what there is to read.
func (p *plugin) addFrom(stdin io.Reader) error {
	input, err := io.ReadAll(stdin)
	if err == nil {
		if p.atOnce(input) {
			return nil
		}
		err = again(input)
	}
	if err != nil {
		return types.NewError(types.ErrIOFailure, "standard input: "+err.Error(), "")
	}
	return p.call()
}

// plugin is one call.
type plugin struct {
	plane func(dataplane.Pod) plane
	// cniVersion is that of the entry, once it is known.
	cniVersion string
	// result is what goes to standard output in the end, or nil.
	result []byte
	begun  time.Time
	// left says of a pod that was passed on at once that it was. Nil: there is
	// none.
	left func()
}

// call lets skel read the environment and standard input and runs the command.
// A panic is an error like others: the runtime then reads why.
func (p *plugin) call() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = types.NewError(types.ErrInternal, fmt.Sprintf("mesh-cni has a bug, and panicked: %v", r), string(debug.Stack()))
		}
	}()
	funcs := skel.CNIFuncs{
		Add:    p.add,
		Check:  p.check,
		Status: p.status,
		// Nothing is kept outside of the namespace.
		GC: func(*skel.CmdArgs) error { return nil },
	}
	if e := skel.PluginMainFuncsWithError(funcs, version.PluginSupports(versions()...), ""); e != nil {
		return e
	}
	return nil
}

// failure is the error object of the specification.
func (p *plugin) failure(err error) []byte {
	var e *types.Error
	if !errors.As(err, &e) {
		e = types.NewError(types.ErrInternal, err.Error(), "")
	}
	b, err := json.Marshal(struct {
		CNIVersion string `json:"cniVersion,omitempty"`
		types.Error
	}{p.cniVersion, *e})
	if err != nil {
		return fmt.Appendf(nil, `{"code":%d,"msg":"the error could not be written"}`, types.ErrInternal)
	}
	return append(b, '\n')
}

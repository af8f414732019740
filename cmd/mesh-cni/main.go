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

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/mesh-intercept/intercept/dataplane"
)

func main() { os.Exit(run(os.Getenv("CNI_COMMAND"), os.Stdout)) }

// versions are those of the CNI specification that are spoken.
func versions() []string { return []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// run is one call of the plugin. It returns the exit code.
//
// It is not [skel.PluginMainFuncs], since of that a DEL fails over an entry or
// a version that it does not know, and the pod can then never be removed.
func run(command string, stdout io.Writer) int {
	p := &plugin{plane: func(t dataplane.Target) plane { return t }}
	err := p.call()
	if command == "DEL" {
		return 0
	}
	text := p.result
	if text == nil && err != nil {
		text = p.failure(err)
	}
	if _, ioErr := stdout.Write(text); ioErr != nil {
		fmt.Fprintln(os.Stderr, "mesh-cni: the result could not be written:", ioErr)
		return 1
	}
	if p.result == nil && err != nil {
		return 1
	}
	return 0
}

// plugin is one call.
type plugin struct {
	plane func(dataplane.Target) plane
	// cniVersion is that of the entry, once it is known.
	cniVersion string
	// result is what goes to standard output in the end, or nil.
	result []byte
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
		// The rules go with the namespace. As long as that lives, something in it may.
		Del: func(*skel.CmdArgs) error { return nil },
		// Nothing is kept outside of the namespace.
		GC: func(*skel.CmdArgs) error { return nil },
	}
	if e := skel.PluginMainFuncsWithError(funcs, version.PluginSupports(versions()...), "mesh-cni is a CNI plugin, which a container runtime runs: see docs/cni.md"); e != nil {
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

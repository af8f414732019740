// A call is over before a limit on its processors changes, so no goroutine looks for it.
//
//go:debug updatemaxprocs=0

// Command mesh-cni is a chained CNI plugin that sends the connections of
// annotated pods through their sidecar. The container runtime runs it: see
// docs/cni.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/strict"
)

func main() {
	c := callFrom(os.Getenv)
	if c.command == "" && len(os.Args) > 1 {
		os.Exit(byHand(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(run(context.Background(), c, os.Stdin, os.Stdout, os.Stderr))
}

// run is one call of the plugin. It returns the exit code.
func run(ctx context.Context, c call, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &plugin{
		plane: func(p dataplane.Pod) plane { return p }, probe: probeNode, stderr: stderr, begun: time.Now(),
	}
	err := p.answer(ctx, c, stdin)
	text := p.result
	if err != nil {
		text = p.failure(err)
	}
	if _, ioErr := stdout.Write(text); ioErr != nil {
		fmt.Fprintln(stderr, "mesh-cni: the result could not be written:", ioErr)
		return 1
	}
	if p.after != nil {
		p.after()
	}
	if err != nil {
		return 1
	}
	return 0
}

// plugin is one call.
type plugin struct {
	plane func(dataplane.Pod) plane
	// probe finds out what the node can do.
	probe  nodeProbe
	stderr io.Writer
	// cniVersion is that of the entry, once it is known.
	cniVersion string
	// result is what goes to standard output if there is no error.
	result []byte
	begun  time.Time
	// after is what the runtime does not have to wait for. Nil: there is nothing.
	after func()
}

// failure is the error object of the specification.
func (p *plugin) failure(err error) []byte {
	var e *types.Error
	if !errors.As(err, &e) {
		e = types.NewError(types.ErrInternal, err.Error(), "")
	}
	// The runtime's log and kubelet's event show it.
	b, err := json.Marshal(struct {
		CNIVersion string `json:"cniVersion,omitempty"`
		types.Error
	}{p.cniVersion, types.Error{Code: e.Code, Msg: strict.OneLine(e.Msg), Details: e.Details}})
	if err != nil {
		return fmt.Appendf(nil, `{"code":%d,"msg":"the error could not be written"}`, types.ErrInternal)
	}
	return append(strict.EscapeJSON(b), '\n')
}

package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// call is what the runtime says about one call in the environment
// (https://www.cni.dev/docs/spec/#parameters).
type call struct {
	command                                string
	containerID, netns, ifName, args, path string
}

func callFrom(getenv func(string) string) call {
	return call{
		command: getenv("CNI_COMMAND"), containerID: getenv("CNI_CONTAINERID"), netns: getenv("CNI_NETNS"),
		ifName: getenv("CNI_IFNAME"), args: getenv("CNI_ARGS"), path: getenv("CNI_PATH"),
	}
}

// A command is one row of the table of commands that read an entry.
type command struct {
	name string
	// since is the first version of the specification that has it.
	since string
	// forPod is whether it is about one pod, which the environment then has to name.
	forPod bool
	run    func(*plugin, context.Context, input) error
}

// commands is the one table. VERSION reads nothing, and DEL passes over what it reads: the rules go with the namespace,
// and a DEL that failed over an entry or a version that is not known would keep the pod for ever.
func commands() []command {
	return []command{
		{"ADD", "0.3.0", true, (*plugin).add},
		{"CHECK", "0.4.0", true, (*plugin).check},
		{"STATUS", "1.1.0", false, (*plugin).status},
		// Nothing is kept outside of the namespace.
		{"GC", "1.1.0", false, func(*plugin, context.Context, input) error { return nil }},
	}
}

// maxInput is more than a runtime has to say: a pod's annotations, written as JSON, and what the plugins before ours
// have made of the pod.
const maxInput = 16 << 20

// answer does what one call asks for. Standard input is read once.
func (p *plugin) answer(ctx context.Context, c call, stdin io.Reader) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = types.NewError(types.ErrInternal, fmt.Sprintf("mesh-cni has a bug, and panicked: %v", r),
				string(debug.Stack()))
		}
	}()
	switch c.command {
	case "":
		_, _ = io.WriteString(p.stderr, about())
		return nil
	case "DEL":
		_, _ = io.Copy(io.Discard, io.LimitReader(stdin, maxInput)) // the runtime is not left with what it has to say
		return nil
	case "VERSION":
		var text strings.Builder
		err := version.PluginSupports(cniconf.Versions()...).Encode(&text)
		p.result = []byte(text.String())
		return err
	}
	for _, row := range commands() {
		if row.name != c.command {
			continue
		}
		if err := c.validate(row.forPod); err != nil {
			return err
		}
		data, err := io.ReadAll(io.LimitReader(stdin, maxInput+1))
		if err == nil && len(data) > maxInput {
			err = fmt.Errorf("it is over %d bytes", maxInput)
		}
		if err != nil {
			return types.NewError(types.ErrIOFailure, "standard input: "+err.Error(), "")
		}
		in, err := readInput(c, data)
		p.cniVersion = in.cniVersion
		if err != nil {
			return failed(in.who(), err)
		}
		if err := in.validate(row); err != nil {
			return err
		}
		return row.run(p, ctx, in)
	}
	return types.NewError(types.ErrInvalidEnvironmentVariables, "unknown CNI_COMMAND: "+c.command, "")
}

// validate reports variables that are missing or malformed.
func (c call) validate(forPod bool) error {
	var missing []string
	for _, v := range []struct {
		name, value string
		required    bool
		malformed   func(string) *types.Error // nil: it cannot be
	}{
		{"CNI_CONTAINERID", c.containerID, forPod, utils.ValidateContainerID},
		{"CNI_NETNS", c.netns, forPod, nil},
		{"CNI_IFNAME", c.ifName, forPod, utils.ValidateInterfaceName},
		{"CNI_PATH", c.path, true, nil},
	} {
		switch {
		case !v.required:
		case v.value == "":
			missing = append(missing, v.name)
		case v.malformed != nil:
			if err := v.malformed(v.value); err != nil {
				return err
			}
		}
	}
	if len(missing) > 0 {
		return types.NewError(types.ErrInvalidEnvironmentVariables,
			fmt.Sprintf("required env variables [%s] missing", strings.Join(missing, ",")), "")
	}
	return nil
}

// validate reports an entry that has no name, and a version that is not spoken or does not have the command.
func (in input) validate(c command) error {
	if in.network == "" {
		return types.NewError(types.ErrInvalidNetworkConfig, "missing network name", "")
	}
	if err := utils.ValidateNetworkName(in.network); err != nil {
		return err
	}
	if err := (&version.Reconciler{}).Check(in.cniVersion, version.PluginSupports(cniconf.Versions()...)); err != nil {
		what := "is of cniVersion " + strict.OneLine(strict.Clip(in.cniVersion))
		if in.cniVersion == "" {
			what = "names no cniVersion, which means 0.1.0"
		}
		return types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("incompatible CNI versions: the list %q %s, and "+
			"mesh-cni speaks %s; a list of plugins needs 0.3.0 at least: write one of these that its other plugins speak, too",
			in.network, what, strings.Join(cniconf.Versions(), ", ")), "")
	}
	has, err := version.GreaterThanOrEqualTo(in.cniVersion, c.since)
	switch {
	case err != nil:
		return types.NewError(types.ErrDecodingFailure, err.Error(), "")
	case !has:
		return types.NewError(types.ErrIncompatibleCNIVersion, "config version does not allow "+c.name, "")
	}
	return nil
}

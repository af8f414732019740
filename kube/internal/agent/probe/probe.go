// Package probe finds out whether the next pod of this node could be
// intercepted: it runs the installed plugin as a runtime does, for a network
// namespace that nobody else sees.
package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/netns"
	"github.com/mesh-intercept/intercept/podspec"
)

// nameserver is what the probe's pod would have (RFC 5737: an address that nobody has).
const nameserver = "192.0.2.53"

// Add runs an ADD of the plugin at a path, with an entry of a list, and
// compares the rules with what the entry asks for. It leaves nothing.
func Add(ctx context.Context, plugin string, entry []byte) error {
	conf, err := cniconf.Parse(entry)
	if err != nil {
		return fmt.Errorf("the entry: %w", err)
	}
	annotations := map[string]string{conf.AnnotationPrefix + "/" + podspec.Enabled: "true"}
	spec, err := podspec.Read(annotations, podspec.Options{
		Prefix: conf.AnnotationPrefix, Defaults: conf.Defaults, Nameservers: []netip.Addr{netip.MustParseAddr(nameserver)},
	})
	if err != nil {
		return fmt.Errorf("the entry's defaults: %w", err)
	}
	input, err := stdin(entry, annotations)
	if err != nil {
		return err
	}
	ns, err := netns.New()
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }() // it is only looked at
	if err := run(ctx, plugin, ns.Path(), input); err != nil {
		return err
	}
	differences, err := (dataplane.Pod{NetNS: ns.Path(), Backend: conf.Backend}).Check(ctx, spec.Config)
	if err == nil && len(differences) > 0 {
		err = errors.New(dataplane.Differences(differences))
	}
	if err != nil {
		return fmt.Errorf("after an ADD of %s that succeeded, the rules are not in force: %w", plugin, err)
	}
	return nil
}

// stdin is what a runtime hands to the plugin. The probe is in no log and no
// metric: it is no pod.
func stdin(entry []byte, annotations map[string]string) ([]byte, error) {
	var fields map[string]any
	if err := json.Unmarshal(entry, &fields); err != nil {
		return nil, err
	}
	fields["cniVersion"], fields["name"], fields["logFile"], fields["agentSocket"] = "1.0.0", "probe", "", ""
	fields["prevResult"] = map[string]any{"cniVersion": "1.0.0", "ips": []any{}}
	fields["runtimeConfig"] = map[string]any{
		cniconf.AnnotationsCapability: annotations, "dns": map[string]any{"servers": []string{nameserver}}}
	return json.Marshal(fields)
}

func run(ctx context.Context, plugin, netns string, input []byte) error {
	cmd := exec.CommandContext(ctx, plugin)
	cmd.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=mesh-cni-probe", "CNI_IFNAME=eth0", "CNI_NETNS=" + netns,
		"CNI_PATH=" + strings.TrimSuffix(plugin, "/"+cniconf.PluginType), "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = bytes.NewReader(input)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	// Pdeathsig is about the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if err == nil {
		return nil
	}
	var said struct{ Msg, Details string }
	if json.Unmarshal(out.Bytes(), &said) == nil && said.Msg != "" {
		return fmt.Errorf("%s failed: %s", plugin, strings.TrimSuffix(said.Msg+": "+said.Details, ": "))
	}
	return fmt.Errorf("%s failed: %w %s", plugin, err, strings.TrimSpace(errOut.String()))
}

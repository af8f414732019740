package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/internal/peers/pods"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/podspec"
)

// input is what the runtime says in one call.
type input struct {
	cniVersion string
	network    string // the list's name
	netns      string
	// held is the namespace that netns led to when the call began. Nil: it led to nothing that could be opened.
	held       *os.File
	pod        cniwire.Pod
	prevResult json.RawMessage // nil: there is none
	// annotations are the pod's, if the runtime gave them.
	annotations map[string]string
	annotated   bool // whether it did
	nameservers []netip.Addr
	conf        cniconf.Conf
	// confErr is what is wrong with the entry. It fails no pod that is not ours.
	confErr error
	// err is what is wrong with the annotations that the runtime gives.
	err error
	// serversErr is what is wrong with the name servers that it gives, which
	// few pods ask for.
	serversErr error
}

// readInput takes apart the entry that the runtime has written to standard
// input. It returns an error for what no decision can be made from.
func readInput(c call, data []byte) (input, error) {
	in := input{netns: c.netns, pod: podOf(c)}
	members, err := strict.Members(data)
	if err != nil {
		return in, fmt.Errorf("standard input: %w: %w", errDecode, err)
	}
	in.conf, in.confErr = cniconf.Read(members)
	fields := map[string]json.RawMessage{}
	for _, m := range members {
		fields[m.Name] = m.Raw
	}
	err = errors.Join(unmarshal(fields, "cniVersion", &in.cniVersion), unmarshal(fields, "name", &in.network))
	if err != nil {
		return in, err
	}
	if raw, ok := fields["prevResult"]; ok && !isNull(raw) {
		in.prevResult = raw
		if raw[0] != '{' {
			return in, fmt.Errorf("prevResult: %w: it is no object", errDecode)
		}
	}
	in.readRuntimeConfig(fields)
	return in, nil
}

// readRuntimeConfig reads what the runtime says for declared capabilities.
func (in *input) readRuntimeConfig(fields map[string]json.RawMessage) {
	var config map[string]json.RawMessage
	if in.err = unmarshal(fields, "runtimeConfig", &config); in.err != nil {
		return
	}
	if _, in.annotated = config[cniconf.AnnotationsCapability]; in.annotated {
		in.err = unmarshal(config, cniconf.AnnotationsCapability, &in.annotations)
	}
	var dns struct {
		Servers []string `json:"servers"`
	}
	in.serversErr = unmarshal(config, "dns", &dns)
	// The runtime has them from a resolv.conf, and they are read as there.
	in.nameservers = intercept.ParseResolvConf("nameserver " + strings.Join(dns.Servers, "\nnameserver "))
}

func unmarshal(fields map[string]json.RawMessage, name string, to any) error {
	raw, ok := fields[name]
	if !ok || isNull(raw) {
		return nil
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return fmt.Errorf("%s: %w: %w", name, errDecode, err)
	}
	return nil
}

func isNull(raw json.RawMessage) bool { return bytes.Equal(bytes.TrimSpace(raw), []byte("null")) }

// podOf reads CNI_ARGS, KEY=VALUE;KEY=VALUE. What else there is belongs to
// other plugins of the list.
func podOf(c call) cniwire.Pod {
	pod := cniwire.Pod{ContainerID: c.containerID}
	for pair := range strings.SplitSeq(c.args, ";") {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "K8S_POD_NAMESPACE":
			pod.Namespace = value
		case "K8S_POD_NAME":
			pod.Name = value
		case "K8S_POD_UID":
			pod.UID = value
		}
	}
	return pod
}

// named reports whether the runtime said which pod it is. Of anything else,
// such as a container that nerdctl runs, nobody knows more than the runtime.
func (in input) named() bool { return in.pod.Namespace != "" && in.pod.Name != "" }

// who is the pod in messages.
func (in input) who() string {
	if in.named() {
		return "pod " + in.pod.String()
	}
	return "container " + in.pod.ContainerID
}

// exempt says why a pod is left alone whatever it asks for, or "".
func (in input) exempt() string {
	if slices.Contains(in.conf.ExcludeNamespaces, in.pod.Namespace) {
		return "excluded-namespace"
	}
	if ok, err := path.Match(in.conf.AgentPod, in.pod.String()); err == nil && ok && in.named() {
		return "agent"
	}
	return ""
}

// foreign says why a pod is not ours, as far as the runtime and the entry tell,
// or "".
func (in input) foreign() string {
	why := in.exempt()
	if why == "" && in.annotated && in.err == nil && !podspec.Mentioned(in.annotations, in.conf.AnnotationPrefix) {
		why = notAnnotated
	}
	return why
}

// strange reports whether the entry does not say well what our annotations begin
// with, or whose are read, and the pod has one that may be asked about.
func (in input) strange() bool {
	wrong := func(e *cniconf.Error, field string) bool {
		return e.Field == field || e.Unknown && strict.Hint(e.Field, []string{field}, "") != ""
	}
	for _, err := range strict.Flatten(in.confErr) {
		var e *cniconf.Error
		switch {
		case !errors.As(err, &e):
		case wrong(e, "annotationPrefix") && podspec.MayAsk(in.annotations),
			wrong(e, "dialects") && pods.Claims(pods.Dialects(), in.conf.AnnotationPrefix, in.annotations) != "":
			return true
		}
	}
	return false
}

// ownNetNS reports whether CNI_NETNS is the plugin's own namespace: the pod
// shares the node's network. What cannot be found out is not so; to apply will
// then fail and say why.
func (in input) ownNetNS() bool {
	pod, err := os.Stat(in.netns)
	if err != nil {
		return false
	}
	own, err := os.Stat("/proc/self/ns/net")
	return err == nil && os.SameFile(pod, own)
}

// passed is what ADD prints: prevResult as it came. It is written anew only if
// it is of another version than the entry, and made up if there is none.
func (in input) passed() ([]byte, error) {
	if in.prevResult == nil {
		return fmt.Appendf(nil, `{"cniVersion":%q}`, in.cniVersion), nil
	}
	var has struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(in.prevResult, &has); err != nil {
		return nil, fmt.Errorf("prevResult: %w: %w", errDecode, err)
	}
	if has.CNIVersion == "" || has.CNIVersion == in.cniVersion {
		return in.prevResult, nil
	}
	result, err := create.Create(has.CNIVersion, in.prevResult)
	if err == nil {
		result, err = result.GetAsVersion(in.cniVersion)
	}
	var text bytes.Buffer
	if err == nil {
		err = result.PrintTo(&text)
	}
	if err != nil {
		return nil, fmt.Errorf("prevResult: %w: version %q as %q: %w", errDecode, has.CNIVersion, in.cniVersion, err)
	}
	return text.Bytes(), nil
}

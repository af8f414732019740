package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/podspec"
)

// glance is the little of standard input that tells most pods to be not ours.
type glance struct {
	CNIVersion    string          `json:"cniVersion"`
	PrevResult    json.RawMessage `json:"prevResult"`
	RuntimeConfig struct {
		// Nil: the runtime gave none.
		Annotations *map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	} `json:"runtimeConfig"`
	AnnotationPrefix string `json:"annotationPrefix"`
	AgentSocket      string `json:"agentSocket"`
	LogLevel         string `json:"logLevel"`
}

// atOnce returns the result of an ADD of a pod that has no annotation of ours,
// and the socket of the agent that counts it, if there is one. The result is nil
// if there is more to think about.
func atOnce(stdin []byte) (result []byte, socket string) {
	if bytes.Contains(stdin, []byte(`"`+podspec.DefaultPrefix+`/`)) {
		return nil, "" // most likely there is: to look twice would take longer
	}
	var g glance
	switch {
	case json.Unmarshal(stdin, &g) != nil, !slices.Contains(versions(), g.CNIVersion), g.RuntimeConfig.Annotations == nil, g.LogLevel == "debug",
		podspec.Mentioned(*g.RuntimeConfig.Annotations, g.AnnotationPrefix), len(g.PrevResult) == 0, g.PrevResult[0] != '{':
		return nil, ""
	}
	result, err := input{cniVersion: g.CNIVersion, prevResult: g.PrevResult}.passed()
	if err != nil {
		return nil, ""
	}
	return result, g.AgentSocket
}

// leftAlone tells the agent, if there is one, of a pod that atOnce passed on.
func leftAlone(begun time.Time, socket string) {
	if socket == "" {
		return
	}
	pod := podOf(&skel.CmdArgs{ContainerID: os.Getenv("CNI_CONTAINERID"), Args: os.Getenv("CNI_ARGS")})
	report{in: input{pod: pod, conf: cniconf.Conf{AgentSocket: socket}}, command: "ADD", begun: begun}.skip(context.Background(), notAnnotated)
}

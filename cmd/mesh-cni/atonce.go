package main

import (
	"bytes"
	"encoding/json"

	"github.com/mesh-intercept/intercept/podspec"
)

// glance is the little of standard input that tells most pods to be not ours.
// The longest part of an ADD that does nothing is to read JSON, so that it is
// read once and nothing else of it is understood.
type glance struct {
	CNIVersion    string          `json:"cniVersion"`
	PrevResult    json.RawMessage `json:"prevResult"`
	RuntimeConfig struct {
		// Nil: the runtime gave none.
		Annotations *map[string]string `json:"io.kubernetes.cri.pod-annotations"`
	} `json:"runtimeConfig"`
	AnnotationPrefix string `json:"annotationPrefix"`
	LogLevel         string `json:"logLevel"`
}

// atOnce returns the result of an ADD of a pod that has no annotation of ours,
// and nil if there is more to think about.
func atOnce(stdin []byte) []byte {
	if bytes.Contains(stdin, []byte(`"`+podspec.DefaultPrefix+`/`)) {
		return nil // most likely there is: to look twice would take longer
	}
	var g glance
	switch {
	case json.Unmarshal(stdin, &g) != nil, g.RuntimeConfig.Annotations == nil, g.LogLevel == "debug",
		podspec.Mentioned(*g.RuntimeConfig.Annotations, g.AnnotationPrefix), len(g.PrevResult) == 0, g.PrevResult[0] != '{':
		return nil
	}
	result, err := input{cniVersion: g.CNIVersion, prevResult: g.PrevResult}.passed()
	if err != nil {
		return nil
	}
	return result
}

//go:build linux

package peers

import (
	"os"
	"testing"

	"go.yaml.in/yaml/v3"
)

// Injected is a pod that a mesh's own injector has seen (make injected).
type Injected struct {
	Name string `yaml:"name"`
	// Kind is the workload's.
	Kind string `yaml:"kind"`
	// Native is true of a pod whose proxy is an init container, too.
	Native bool `yaml:"native"`
	// Proxy is the proxy's image.
	Proxy string `yaml:"proxy"`
	// Container is the one that the mesh's program runs in, as far as it concerns the process.
	Container struct {
		Name          string        `yaml:"name"`
		Image         string        `yaml:"image"`
		Command, Args []string      `yaml:",flow"`
		Env           []EnvVariable `yaml:"env"`

		SecurityContext struct {
			RunAsUser    int  `yaml:"runAsUser"`
			RunAsGroup   int  `yaml:"runAsGroup"`
			Privileged   bool `yaml:"privileged"`
			Capabilities struct {
				Add, Drop []string `yaml:",flow"`
			} `yaml:"capabilities"`
		} `yaml:"securityContext"`
	} `yaml:"container"`
}

// EnvVariable is a container's variable.
type EnvVariable struct{ Name, Value string }

// ReadInjected reads a file of them.
func ReadInjected(t testing.TB, path string) (all []Injected) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(text, &all)
	}
	if err != nil || len(all) == 0 {
		t.Fatalf("%s: %d pods: %v", path, len(all), err)
	}
	return all
}

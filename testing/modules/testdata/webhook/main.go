// Command webhook stands for a program of a user of the library: it has a
// module and a version of Kubernetes' API of its own.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/podspec"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	var pod corev1.Pod
	if err := json.NewDecoder(os.Stdin).Decode(&pod); err != nil {
		return err
	}
	spec, err := podspec.Read(pod.Annotations, podspec.Options{Defaults: intercept.Default()})
	if err != nil {
		return err
	}
	if err := spec.Config.Validate(); err != nil {
		return err
	}
	fmt.Println(pod.Name, spec.Reason, spec.Config.Outbound.ExcludePorts)
	return nil
}

package podspec

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// RefusedRuntimes are the RuntimeClasses, as globs, whose pods bring a kernel
// or a network stack of their own: rules in the node's kernel, in the network
// namespace that the runtime sets up for the pod, are not asked there.
func RefusedRuntimes() []string {
	return []string{"gvisor*", "runsc*", "kata*"}
}

// Foreign says why rules in a pod's network namespace would have no effect on
// the pod, or returns "". classes are what is known of the pod's RuntimeClass;
// empty ones are skipped. refuse are globs of the classes that are refused. If
// no class is known, annotations that only such runtimes read count as one.
func Foreign(annotations map[string]string, refuse []string, classes ...string) string {
	known := false
	for _, class := range classes {
		if class == "" {
			continue
		}
		known = true
		for _, glob := range refuse {
			if ok, err := path.Match(glob, class); err == nil && ok {
				return fmt.Sprintf("its runtime is %s", class)
			}
		}
	}
	if known || len(refuse) == 0 {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		value := annotations[name]
		switch {
		case strings.HasPrefix(name, "io.katacontainers."), strings.HasPrefix(name, "dev.gvisor."):
			return fmt.Sprintf("its annotation %s is for a runtime of that kind", name)
		case name == "io.kubernetes.cri.untrusted-workload" && value == "true",
			name == "io.kubernetes.cri-o.TrustedSandbox" && value == "false":
			return fmt.Sprintf("its annotation %s=%s asks for a runtime of that kind", name, value)
		}
	}
	return ""
}

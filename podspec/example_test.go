package podspec_test

import (
	"fmt"

	"github.com/mesh-intercept/intercept/podspec"
	"github.com/mesh-intercept/intercept/settings"
)

// A webhook gives the pods that ask for interception an init container. Of mode
// resolvconf it need not know the name servers: mesh-init reads the pod's
// resolv.conf.
func ExampleRead() {
	pod := map[string]string{
		"intercept.mesh/enabled":                "true",
		"intercept.mesh/dns":                    "resolvconf",
		"intercept.mesh/outbound-exclude-ports": "5432",
	}
	spec, err := podspec.Read(pod, podspec.Options{Limits: podspec.DefaultLimits()})
	switch {
	case err != nil:
		fmt.Println(err) // the answer to whoever made the pod: every mistake, by annotation
		return
	case spec.Reason != podspec.Asked:
		fmt.Println("left alone:", spec.Reason)
		return
	}
	fmt.Println("args:", append([]string{"apply"}, settings.Args(spec.Config)...))
	fmt.Println("annotation:", podspec.DefaultPrefix+"/"+podspec.Init, "container") // the plugin then leaves it alone
	// Output:
	// args: [apply --outbound-exclude-ports=5432 --dns=resolvconf]
	// annotation: intercept.mesh/init container
}

// A mistake is reported by annotation, and answered with what was meant.
func ExampleRead_errors() {
	_, err := podspec.Read(map[string]string{
		"intercept.mesh/enabled":       "true",
		"intercept.mesh/exclude-cidrs": "10.0.0.0/8",
		"intercept.mesh/dns-servers":   "10.0.0.10:53",
	}, podspec.Options{})
	fmt.Println(err)
	// Output:
	// annotation intercept.mesh/dns-servers: "10.0.0.10:53" is not an address (as in 10.0.0.10 or fd00::10)
	// annotation intercept.mesh/exclude-cidrs: unknown annotation; did you mean outbound-exclude-cidrs?
}

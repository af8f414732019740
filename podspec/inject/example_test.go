package inject_test

import (
	"fmt"

	"github.com/mesh-intercept/intercept/podspec/inject"
)

// What an admission webhook, or a tool that writes manifests, does.
func ExampleRead() {
	profile, err := inject.ParseProfile("haproxy", []byte(inject.ShippedText("haproxy")))
	if err != nil {
		fmt.Println(err)
		return
	}
	const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},` +
		`"spec":{"containers":[{"name":"web","image":"web:1"}]}}`
	done, err := inject.Read("the request", []byte(pod), profile, inject.Cluster{PodSecurity: "restricted"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, o := range done.Objects {
		fmt.Println(o, o.Mode)
		for _, c := range o.Changes {
			fmt.Printf("%s, because:\n  %s\n", c.What, c.Why)
		}
		patch, err := o.Patch()
		fmt.Println(len(patch), err)
	}
	// Output:
	// pod/web cni
	// the node writes the rules (mode cni), because:
	//   Pod Security restricted of the namespace admits no init container with NET_ADMIN
	// sidecar haproxy, because:
	//   it starts before the pod's containers, and ends after them
	// no sidecar mesh-probe, because:
	//   no container has a probe for it
	// 3 <nil>
}

package pods

import (
	"fmt"
	"strconv"

	"github.com/mesh-intercept/intercept/internal/peers/linkerd"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/podspec"
)

// What Linkerd's injector writes, and linkerd-cni reads (cni-plugin/main.go in linkerd/linkerd2-proxy-init). The
// injector copies a namespace's annotations to its pods.
const (
	linkerdVersion = "linkerd.io/proxy-version"
	linkerdPrefix  = "config.linkerd.io/"
	// linkerdControl is a label of the control plane's own pods, which reach the API server without their proxy.
	linkerdControl = "linkerd.io/control-plane-component"

	linkerdProxy = "linkerd-proxy"
	linkerdInit  = "linkerd-init"

	// Of Linkerd's chart: the ports of its proxy's own administration, and of those that it never takes.
	linkerdIn, linkerdOut   = "4143", "4140"
	linkerdUID              = "2102"
	linkerdIgnoredInbound   = "4190,4191,4567,4568"
	linkerdIgnoredOutbound  = "4567,4568"
	linkerdPortsOfAPIServer = "443,6443"
)

// readLinkerd reads a pod of Linkerd's. Opaque ports are captured like others: what opaque means is the proxy's affair.
func readLinkerd(p Pod) (Answer, error) {
	l := line{pod: p}
	a := p.Annotations
	switch {
	case p.has(linkerdInit):
		return leftAlone(podspec.InitContainer), nil
	case p.Known && !p.has(linkerdProxy):
		return leftAlone(NoProxy), nil
	}
	proxy, _ := p.container(linkerdProxy)
	l.args = []string{"--incoming-proxy-port=" + linkerdIn, "--outgoing-proxy-port=" + linkerdOut}
	id := func(flag, annotation string, of *int64, initial string) {
		text := a[annotation]
		if text == "" && of != nil {
			text = strconv.FormatInt(*of, 10)
		}
		if text == "" {
			text = initial
		}
		l.add(flag, text, annotation, func(text string) error {
			if _, err := strconv.ParseUint(text, 10, 32); err != nil {
				return fmt.Errorf("%q is not a number", strict.Clip(text))
			}
			return nil
		})
	}
	id("--proxy-uid", linkerdPrefix+"proxy-uid", proxy.UID, linkerdUID)
	id("--proxy-gid", linkerdPrefix+"proxy-gid", proxy.GID, "")

	inbound := linkerdPrefix + "skip-inbound-ports"
	l.add("--inbound-ports-to-ignore", joinLists(linkerdIgnoredInbound, a[inbound]), inbound, withoutStar(ports))
	outbound := linkerdPrefix + "skip-outbound-ports"
	ignored := linkerdIgnoredOutbound
	if text, ok := a[outbound]; ok {
		ignored = text // it takes the place of the node's, where inbound ports are added
	}
	if _, ok := p.Labels[linkerdControl]; ok {
		ignored = joinLists(ignored, linkerdPortsOfAPIServer)
	}
	l.add("--outbound-ports-to-ignore", joinLists(ignored), outbound, withoutStar(ports))
	l.list("--subnets-to-ignore", linkerdPrefix+"skip-subnets", "", withoutStar(cidrs))
	return l.run(linkerd.Parse, noFile)
}

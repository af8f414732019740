package pods

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/internal/peers/istio"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/podspec"
)

// What Istio's injector writes, and istio-cni reads (cni/pkg/plugin in istio/istio).
const (
	// IstioStatus lists what was injected.
	IstioStatus = "sidecar.istio.io/status"
	istioInject = "sidecar.istio.io/inject" // also a label, which goes first
	istioMode   = "sidecar.istio.io/interceptionMode"
	istioConfig = "proxy.istio.io/config"

	istioTraffic  = "traffic.sidecar.istio.io/"
	istioReroute  = "istio.io/reroute-virtual-interfaces"
	istioKubevirt = istioTraffic + "kubevirtInterfaces" // its deprecated name

	istioProxy = "istio-proxy"
	istioInit  = "istio-init"

	dnsCaptureVar   = "ISTIO_META_DNS_CAPTURE"
	dualStackVar    = "ISTIO_DUAL_STACK"
	invalidDropVar  = "INVALID_DROP"
	disableEnvoyVar = "DISABLE_ENVOY"

	// istioOwnPorts are those of the sidecar's statistics, health and metrics, which are never captured.
	istioOwnPorts = "15020,15021,15090"
)

// istioPods is what of annotation sidecar.istio.io/status matters.
type istioPods struct {
	InitContainers []string `json:"initContainers"`
	Containers     []string `json:"containers"`
}

// readIstio reads a pod of Istio's.
func readIstio(p Pod) (Answer, error) {
	l := line{pod: p}
	a := p.Annotations
	inject, labelled := p.Labels[istioInject]
	if !labelled {
		inject = a[istioInject]
	}
	if inject == "false" {
		return leftAlone(podspec.Disabled), nil
	}
	var status istioPods
	if text := a[IstioStatus]; json.Unmarshal([]byte(text), &status) == nil && !p.Known {
		for _, name := range status.InitContainers {
			p.Containers = append(p.Containers, Container{Name: name, Init: true})
		}
		for _, name := range status.Containers {
			p.Containers = append(p.Containers, Container{Name: name})
		}
	}
	proxy, found := p.container(istioProxy)
	switch {
	case p.has(istioInit):
		return leftAlone(podspec.InitContainer), nil
	case p.Known && !found:
		return leftAlone(NoProxy), nil
	case proxy.Env[disableEnvoyVar] == "true":
		return leftAlone(podspec.Disabled), nil
	}
	own, err := istioProxyConfig(p)
	if err != nil {
		l.errs.Add(&podspec.Error{Annotation: istioConfig, Err: err})
	}
	mode, from := a[istioMode], istioMode
	if mode == "" {
		mode, from = own.mode, istioConfig
	}
	l.add("--istio-inbound-interception-mode", mode, from, func(text string) error {
		if text != "REDIRECT" && text != "TPROXY" {
			return fmt.Errorf("%q is not REDIRECT or TPROXY", strict.Clip(text))
		}
		return nil
	})
	l.list("--istio-service-cidr", istioTraffic+"includeOutboundIPRanges", "*", cidrs)
	l.list("--istio-service-exclude-cidr", istioTraffic+"excludeOutboundIPRanges", "", withoutStar(cidrs))
	l.list("--istio-inbound-ports", istioTraffic+"includeInboundPorts", "*", ports)
	excluded := joinLists(a[istioTraffic+"excludeInboundPorts"], istioOwnPorts)
	l.add("--istio-local-exclude-ports", excluded, istioTraffic+"excludeInboundPorts", ports)
	l.list("--istio-outbound-ports", istioTraffic+"includeOutboundPorts", "", ports)
	l.list("--istio-local-outbound-ports-exclude", istioTraffic+"excludeOutboundPorts", "", withoutStar(ports))
	l.list("--istio-exclude-interfaces", istioTraffic+"excludeInterfaces", "", nil)
	reroute := istioReroute
	if _, ok := a[reroute]; !ok {
		reroute = istioKubevirt
	}
	l.list("--kube-virt-interfaces", reroute, "", nil)
	l.args = append(l.args, "--proxy-uid="+istioID(proxy.UID), "--proxy-gid="+istioID(proxy.GID))
	on := func(variable string) bool {
		text, ok := proxy.Env[variable]
		if !ok {
			text = own.metadata[variable]
		}
		is, _ := strconv.ParseBool(text)
		return is
	}
	if on(dnsCaptureVar) {
		l.args = append(l.args, "--redirect-dns", "--capture-all-dns")
	}
	if on(dualStackVar) {
		l.args = append(l.args, "--dual-stack")
	}
	if on(invalidDropVar) {
		l.args = append(l.args, "--drop-invalid")
	}
	return l.run(istio.Parse, noFile)
}

// list adds the list of an annotation; initial holds if there is no such annotation. A list that is given and empty is
// an empty one.
func (l *line) list(flag, annotation, initial string, of kind) {
	text, given := l.pod.Annotations[annotation]
	if !given {
		text = initial
	}
	if text = joinLists(text); text == "" && given {
		l.args = append(l.args, flag+"=")
		return
	}
	l.add(flag, text, annotation, of)
}

// istioID is the proxy's user or group: root, and nobody, stand for 1337.
func istioID(id *int64) string {
	if id == nil || *id == 0 {
		return "1337"
	}
	return strconv.FormatInt(*id, 10)
}

// proxyConfig is what of annotation proxy.istio.io/config matters.
type proxyConfig struct {
	mode     string
	metadata map[string]string
}

func istioProxyConfig(p Pod) (c proxyConfig, err error) {
	text := p.Annotations[istioConfig]
	if strings.TrimSpace(text) == "" {
		return c, nil
	}
	doc, err := p.document([]byte(text))
	if err != nil {
		return c, err
	}
	c.metadata = map[string]string{}
	for _, f := range doc.Fields {
		switch f.Name {
		case "interceptionMode":
			c.mode = f.Value.Text
		case "proxyMetadata":
			for _, m := range f.Value.Fields {
				c.metadata[m.Name] = m.Value.Text
			}
		}
	}
	return c, nil
}

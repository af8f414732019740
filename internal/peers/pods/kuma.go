package pods

import (
	"errors"
	"strings"

	"github.com/mesh-intercept/intercept/internal/peers/kuma"
	"github.com/mesh-intercept/intercept/podspec"
)

// What Kuma's injector writes, and kuma-cni reads (app/cni/pkg/cni in kumahq/kuma).
const (
	kumaInjected = "kuma.io/sidecar-injected"
	// kumaConfig is a whole configuration; where it is missing, the others say what differs from Kuma's defaults.
	kumaConfig  = "traffic.kuma.io/transparent-proxy-config"
	kumaTraffic = "traffic.kuma.io/"
	kumaPrefix  = "kuma.io/"

	kumaInit = "kuma-init"
)

// readKuma reads a pod of Kuma's.
func readKuma(p Pod) (Answer, error) {
	l := line{pod: p}
	a := p.Annotations
	if p.has(kumaInit) {
		return leftAlone(podspec.InitContainer), nil
	}
	if text := a[kumaPrefix+"transparent-proxying"]; text == "disabled" || text == "false" {
		return leftAlone(podspec.Disabled), nil
	}
	if text, ok := a[kumaConfig]; ok {
		l.args = []string{"--config=-"}
		answer, err := l.run(kuma.Parse, func(name string) ([]byte, error) {
			if name != "-" {
				return noFile(name)
			}
			return []byte(text), nil
		})
		if e, ok := errors.AsType[*podspec.Error](err); ok {
			e.Annotation = kumaConfig
		}
		return answer, err
	}
	l.list("--exclude-inbound-ports", kumaTraffic+"exclude-inbound-ports", "", withoutStar(ports))
	l.list("--exclude-outbound-ports", kumaTraffic+"exclude-outbound-ports", "", withoutStar(ports))
	l.list("--exclude-inbound-ips", kumaTraffic+"exclude-inbound-ips", "", withoutStar(cidrs))
	l.list("--exclude-outbound-ips", kumaTraffic+"exclude-outbound-ips", "", withoutStar(cidrs))
	for rule := range strings.SplitSeq(a[kumaTraffic+"exclude-outbound-ports-for-uids"], ";") {
		l.add("--exclude-outbound-ports-for-uids", strings.TrimSpace(rule), kumaTraffic+"exclude-outbound-ports-for-uids",
			nil)
	}
	if a[kumaPrefix+"gateway"] == "enabled" {
		l.args = append(l.args, "--redirect-inbound=false")
	}
	l.add("--kuma-dp-user", a[kumaPrefix+"sidecar-uid"], kumaPrefix+"sidecar-uid", nil)
	l.add("--ip-family-mode", a[kumaPrefix+"transparent-proxying-ip-family-mode"],
		kumaPrefix+"transparent-proxying-ip-family-mode", nil)
	l.add("--drop-invalid-packets", a[kumaTraffic+"drop-invalid-packets"], kumaTraffic+"drop-invalid-packets", switchValue)
	l.add("--redirect-inbound-port", a[kumaPrefix+"transparent-proxying-inbound-port"],
		kumaPrefix+"transparent-proxying-inbound-port", nil)
	l.add("--redirect-outbound-port", a[kumaPrefix+"transparent-proxying-outbound-port"],
		kumaPrefix+"transparent-proxying-outbound-port", nil)
	if a[kumaPrefix+"builtindns"] == "enabled" {
		l.args = append(l.args, "--redirect-all-dns-traffic")
		l.add("--redirect-dns-port", a[kumaPrefix+"builtindnsport"], kumaPrefix+"builtindnsport", nil)
	}
	return l.run(kuma.Parse, noFile)
}

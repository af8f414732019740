package pods

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/podspec"
)

// What Consul's injector writes, and consul-cni reads (control-plane/cni in hashicorp/consul-k8s).
const (
	consulPrefix    = "consul.hashicorp.com/"
	consulInjected  = consulPrefix + "connect-inject-status"
	consulMeshed    = consulPrefix + "mesh-inject-status"
	consulTProxy    = consulPrefix + "transparent-proxy-status"
	consulConfig    = consulPrefix + "redirect-traffic-config"
	consulDualStack = consulPrefix + "dual-stack"

	consulInit = "consul-connect-inject-init"
)

func consulClaims(a map[string]string) bool {
	return (a[consulInjected] == "injected" || a[consulMeshed] == "injected") && a[consulTProxy] != ""
}

// consulSettings is the JSON of sdk/iptables.Config in hashicorp/consul.
type consulSettings struct {
	ConsulDNSIP          string
	ConsulDNSPort        int
	ProxyUserID          string
	ProxyInboundPort     int
	ProxyOutboundPort    int
	ExcludeInboundPorts  []string
	ExcludeOutboundPorts []string
	ExcludeOutboundCIDRs []string
	ExcludeUIDs          []string
}

// readConsul reads a pod of Consul's. Consul captures what an app sends to its own pod, which is taken for a mistake
// there, and is not captured here.
func readConsul(p Pod) (Answer, error) {
	text, ok := p.Annotations[consulConfig]
	if !ok {
		return Answer{}, &podspec.Error{Annotation: consulConfig, Err: errors.New("it is missing: it says how to intercept")}
	}
	var s consulSettings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return Answer{}, &podspec.Error{Annotation: consulConfig, Err: err}
	}
	c := intercept.Default()
	var errs strict.Errors
	set := func(field string, err error) {
		if err != nil {
			errs.Add(&podspec.Error{Annotation: consulConfig, Err: strict.Under(field, err)})
		}
	}
	port := func(field string, to *intercept.PortRange, n, initial int) {
		if n == 0 {
			n = initial
		}
		if n < 1 || n > 65535 {
			set(field, fmt.Errorf("%d is not a port", n))
			return
		}
		*to = intercept.Port(uint16(n))
	}
	c.Proxy = intercept.Proxy{}
	set("ProxyUserID", strict.SetText(&c.Proxy.UIDs, s.ProxyUserID))
	port("ProxyInboundPort", &c.Inbound.Port, s.ProxyInboundPort, 0)
	port("ProxyOutboundPort", &c.Outbound.Port, s.ProxyOutboundPort, 15001)
	c.Inbound.ExcludePorts = nil
	list := func(field string, to any, items []string) {
		if joined := joinLists(items...); joined != "" {
			set(field, strict.SetText(to, joined))
		}
	}
	list("ExcludeInboundPorts", &c.Inbound.ExcludePorts, s.ExcludeInboundPorts)
	list("ExcludeOutboundPorts", &c.Outbound.ExcludePorts, s.ExcludeOutboundPorts)
	list("ExcludeOutboundCIDRs", &c.Outbound.ExcludeCIDRs, s.ExcludeOutboundCIDRs)
	list("ExcludeUIDs", &c.Outbound.ExcludeUIDs, s.ExcludeUIDs)
	c.TunnelPort, c.Inbound.Hairpin, c.Inbound.CaptureForwarded = 0, intercept.HairpinPass, true
	if s.ConsulDNSIP != "" {
		var server intercept.PortRange
		port("ConsulDNSPort", &server, s.ConsulDNSPort, 53)
		addr, err := netip.ParseAddr(s.ConsulDNSIP)
		set("ConsulDNSIP", err)
		c.DNS.Mode = intercept.DNSAll
		if s.ConsulDNSPort != 0 { // then it is asked itself, at another port
			c.DNS.Mode, c.DNS.Servers = intercept.DNSResolvConf, []netip.Addr{addr}
		}
		if addr.IsLoopback() {
			c.DNS.Port = server.First // in the sidecar, which listens in both families
		} else {
			c.DNS.Target = []netip.AddrPort{netip.AddrPortFrom(addr, server.First)}
		}
	}
	var warnings []string
	if strings.TrimSpace(p.Annotations[consulDualStack]) != "true" {
		c.Families = intercept.FamiliesIPv4
		warnings = append(warnings, "annotation "+consulDualStack+" is not true: IPv6 is outside the mesh, as "+
			"with Consul")
	}
	if errs.None() {
		for _, err := range strict.Flatten(c.Validate()) {
			errs.Add(&podspec.Error{Annotation: consulConfig, Err: err})
		}
	}
	if err := errs.Err(); err != nil {
		return Answer{}, err
	}
	return asked(c, warnings), nil
}

package pods

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/podspec"
)

// TestRead: what pods of other meshes ask for, by the fields that differ from what the mesh's own default is.
func TestRead(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.244.0.5"), netip.MustParseAddr("fd00:244::5")}
	uid := func(n int64) *int64 { return &n }
	for name, tc := range map[string]struct {
		dialect Dialect
		pod     Pod
		want    func(c intercept.Config) any
		is      any
		skip    podspec.Reason
		err     string
	}{
		"istio, nothing said": {
			dialect: Istio, pod: Pod{Annotations: map[string]string{IstioStatus: "{}"}},
			want: func(c intercept.Config) any {
				return c.Outbound.IncludeCIDRs.String() + " " + c.Inbound.IncludePorts.String() + " " + c.Inbound.ExcludePorts.String()
			}, is: "* * 15020,15021,15090",
		},
		"istio, lists": {
			dialect: Istio, pod: Pod{Annotations: map[string]string{
				IstioStatus:                              "{}",
				istioTraffic + "includeOutboundIPRanges": "10.0.0.0/8, fd00::/8",
				istioTraffic + "excludeOutboundIPRanges": "10.9.0.0/16",
				istioTraffic + "excludeOutboundPorts":    "5432",
				istioTraffic + "includeOutboundPorts":    "9000",
				istioTraffic + "excludeInboundPorts":     "22",
				istioTraffic + "excludeInterfaces":       "net1",
				istioTraffic + "kubevirtInterfaces":      "k6t-eth0",
				"sidecar.istio.io/interceptionMode":      "TPROXY",
			}},
			want: func(c intercept.Config) any {
				return strings.Join([]string{c.Outbound.IncludeCIDRs.String(), c.Outbound.ExcludeCIDRs.String(),
					c.Outbound.ExcludePorts.String(), c.Outbound.IncludePorts.String(), c.Inbound.ExcludePorts.String(),
					c.ExcludeInterfaces[0], c.VirtualInterfaces[0], string(c.Inbound.Mode)}, " ")
			}, is: "10.0.0.0/8,fd00::/8 10.9.0.0/16 5432 9000 22,15020,15021,15090 net1 k6t-eth0 tproxy",
		},
		"istio, an empty list is one": {
			dialect: Istio, pod: Pod{Annotations: map[string]string{IstioStatus: "{}",
				istioTraffic + "includeInboundPorts": "", istioTraffic + "includeOutboundIPRanges": "10.0.0.0/8"}},
			want: func(c intercept.Config) any { return c.Inbound.IncludePorts.String() }, is: "none",
		},
		"istio, as whom the proxy runs, and what its variables say": {
			dialect: Istio, pod: Pod{Known: true, Annotations: map[string]string{IstioStatus: "{}"},
				Containers: []Container{{Name: istioProxy, UID: uid(2000), GID: uid(0),
					Env: map[string]string{dnsCaptureVar: "true", invalidDropVar: "true"}}}},
			want: func(c intercept.Config) any {
				return c.Proxy.UIDs.String() + " " + c.Proxy.GIDs.String() + " " + string(c.DNS.Mode)
			}, is: "2000 1337 all",
		},
		"istio, its own configuration": {
			dialect: Istio, pod: Pod{Annotations: map[string]string{IstioStatus: "{}",
				istioConfig: "interceptionMode: TPROXY\nproxyMetadata:\n  ISTIO_META_DNS_CAPTURE: \"true\"\n"}},
			want: func(c intercept.Config) any { return string(c.Inbound.Mode) + " " + string(c.DNS.Mode) }, is: "tproxy all",
		},
		"istio, the label goes before the annotation": {
			dialect: Istio, pod: Pod{Annotations: map[string]string{IstioStatus: "{}", istioInject: "true"},
				Labels: map[string]string{istioInject: "false"}}, skip: podspec.Disabled,
		},
		"istio, an init container": {
			dialect: Istio, pod: Pod{Annotations: map[string]string{
				IstioStatus: `{"initContainers":["istio-init"],"containers":["istio-proxy"]}`}}, skip: podspec.InitContainer,
		},
		"istio, only the validation": {
			dialect: Istio, pod: Pod{Annotations: map[string]string{
				IstioStatus: `{"initContainers":["istio-validation"],"containers":["istio-proxy"]}`}},
			want: func(c intercept.Config) any { return c.Inbound.Port.String() }, is: "15006",
		},
		"istio, no proxy": {
			dialect: Istio, pod: Pod{Known: true, Annotations: map[string]string{IstioStatus: "{}"}}, skip: NoProxy,
		},
		"istio, all ports excluded": {
			dialect: Istio, pod: Pod{Annotations: map[string]string{IstioStatus: "{}", istioTraffic + "excludeInboundPorts": "http"}},
			err: `annotation traffic.sidecar.istio.io/excludeInboundPorts: "http"`,
		},
		"linkerd, nothing said": {
			dialect: Linkerd, pod: Pod{Annotations: map[string]string{linkerdVersion: "stable"}},
			want: func(c intercept.Config) any {
				return c.Proxy.UIDs.String() + " " + c.Inbound.Port.String() + " " + c.Outbound.Port.String() + " " +
					c.Inbound.ExcludePorts.String() + " " + c.Outbound.ExcludePorts.String() + " " + string(c.Inbound.Hairpin)
			}, is: "2102 4143 4140 4190,4191,4567,4568 4567,4568 pass",
		},
		"linkerd, outbound ports take the place of the node's, inbound ports are added": {
			dialect: Linkerd, pod: Pod{Annotations: map[string]string{linkerdVersion: "stable",
				linkerdPrefix + "skip-outbound-ports": "25, 443", linkerdPrefix + "skip-inbound-ports": "22",
				linkerdPrefix + "skip-subnets": "10.0.0.0/8", linkerdPrefix + "proxy-uid": "3000"}},
			want: func(c intercept.Config) any {
				return c.Proxy.UIDs.String() + " " + c.Inbound.ExcludePorts.String() + " " + c.Outbound.ExcludePorts.String() + " " +
					c.Inbound.ExcludeSources.String()
			}, is: "3000 4190,4191,4567,4568,22 25,443 10.0.0.0/8",
		},
		"linkerd, the control plane reaches the API server": {
			dialect: Linkerd, pod: Pod{Annotations: map[string]string{linkerdVersion: "stable"},
				Labels: map[string]string{linkerdControl: "destination"}},
			want: func(c intercept.Config) any { return c.Outbound.ExcludePorts.String() }, is: "4567,4568,443,6443",
		},
		"linkerd, no number": {
			dialect: Linkerd, pod: Pod{Annotations: map[string]string{linkerdVersion: "stable", linkerdPrefix + "proxy-uid": "me"}},
			err: `annotation config.linkerd.io/proxy-uid: "me" is not a number`,
		},
		"kuma, a whole configuration": {
			dialect: Kuma, pod: Pod{Annotations: map[string]string{kumaInjected: "true", kumaConfig: "kumaDPUser: \"5678\"\n" +
				"ipFamilyMode: dualstack\nredirect:\n  inbound:\n    excludePorts: [22]\n  outbound:\n    excludePorts: [443]\n"}},
			want: func(c intercept.Config) any {
				return c.Proxy.UIDs.String() + " " + c.Inbound.ExcludePorts.String() + " " + strict.Text(c.Outbound.Exclude)
			}, is: "5678 22 tcp :443",
		},
		"kuma, a broken configuration": {
			dialect: Kuma, pod: Pod{Annotations: map[string]string{kumaInjected: "true", kumaConfig: "redirect: ["}},
			err: "annotation traffic.kuma.io/transparent-proxy-config: ",
		},
		"kuma, what its webhook reads": {
			dialect: Kuma, pod: Pod{Annotations: map[string]string{kumaInjected: "true",
				kumaTraffic + "exclude-inbound-ports": "22, 23", kumaTraffic + "exclude-outbound-ports": "443",
				kumaTraffic + "exclude-outbound-ports-for-uids": "tcp:80:2002; udp:53:2003", kumaPrefix + "gateway": "enabled",
				kumaTraffic + "exclude-outbound-ips": "10.9.0.0/16", kumaPrefix + "sidecar-uid": "7000"}},
			want: func(c intercept.Config) any {
				return c.Proxy.UIDs.String() + " " + string(c.Inbound.Mode) + " " + strict.Text(c.Outbound.Exclude)
			}, is: "7000 off tcp :443; 10.9.0.0/16; tcp :80 uid=2002; udp :53 uid=2003",
		},
		"kuma, an init container": {
			dialect: Kuma, pod: Pod{Known: true, Annotations: map[string]string{kumaInjected: "true"},
				Containers: []Container{{Name: kumaInit, Init: true}}}, skip: podspec.InitContainer,
		},
		"kuma, without transparent proxying": {
			dialect: Kuma, pod: Pod{Annotations: map[string]string{kumaInjected: "true",
				kumaPrefix + "transparent-proxying": "disabled"}}, skip: podspec.Disabled,
		},
		"consul": {
			dialect: Consul, pod: Pod{Annotations: map[string]string{consulInjected: "injected", consulTProxy: "enabled",
				consulDualStack: "true", consulConfig: `{"ConsulDNSIP":"127.0.0.1","ConsulDNSPort":8600,"ProxyUserID":"5995",` +
					`"ProxyInboundPort":20000,"ProxyOutboundPort":15001,"ExcludeInboundPorts":["21000"],` +
					`"ExcludeOutboundPorts":["443"],"ExcludeOutboundCIDRs":["1.1.1.1/32"],"ExcludeUIDs":["5996"],"NetNS":"/x"}`}},
			want: func(c intercept.Config) any {
				return strings.Join([]string{c.Proxy.UIDs.String(), c.Inbound.Port.String(), c.Inbound.ExcludePorts.String(),
					c.Outbound.ExcludePorts.String(), c.Outbound.ExcludeCIDRs.String(), c.Outbound.ExcludeUIDs.String(),
					string(c.DNS.Mode), intercept.Port(c.DNS.Port).String(), c.DNS.Servers[0].String(), string(c.Families)}, " ")
			}, is: "5995 20000 21000 443 1.1.1.1 5996 resolvconf 8600 127.0.0.1 auto",
		},
		"consul, all DNS, IPv4 alone": {
			dialect: Consul, pod: Pod{Annotations: map[string]string{consulInjected: "injected", consulTProxy: "enabled",
				consulConfig: `{"ConsulDNSIP":"10.0.0.2","ProxyUserID":"5995","ProxyInboundPort":20000}`}},
			want: func(c intercept.Config) any {
				return string(c.DNS.Mode) + " " + c.DNS.Target[0].String() + " " + string(c.Families)
			}, is: "all 10.0.0.2:53 ipv4",
		},
		"consul, no configuration": {
			dialect: Consul, pod: Pod{Annotations: map[string]string{consulInjected: "injected", consulTProxy: "enabled"}},
			err: "redirect-traffic-config: it is missing",
		},
		"consul, no proxy": {
			dialect: Consul, pod: Pod{Annotations: map[string]string{consulInjected: "injected", consulTProxy: "enabled",
				consulConfig: `{"ProxyInboundPort":70000}`}},
			err: "ProxyInboundPort: 70000 is not a port",
		},
	} {
		if d := Claims(Dialects(), "", tc.pod.Annotations); d != tc.dialect {
			t.Errorf("%s: it is %q's", name, d)
		}
		tc.pod.Addresses, tc.pod.Document = own, yamldoc.Document
		got, err := Read(tc.dialect, tc.pod)
		switch {
		case tc.err != "":
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || tc.skip != "" && got.Reason != tc.skip || tc.skip == "" && got.Reason != podspec.Asked:
			t.Errorf("%s: %v, %q", name, err, got.Reason)
		case tc.skip == "" && tc.want(got.Config) != tc.is:
			t.Errorf("%s: %v", name, tc.want(got.Config))
		}
	}
	if d := Claims(Dialects(), "", map[string]string{"intercept.mesh/enabled": "true", IstioStatus: "{}"}); d != Intercept {
		t.Errorf("a pod of both is %q's", d)
	}
	if d := Claims(Dialects(), "", map[string]string{"linkerd.io/inject": "enabled"}); d != "" {
		t.Errorf("a pod that no injector has seen is %q's", d)
	}
	// A plugin reads what the agent has made of YAML, and names the agent where there is none.
	p := Pod{Annotations: map[string]string{kumaInjected: "true", kumaConfig: `{"redirect":{"inbound":{"excludePorts":[22]}}}`}}
	if got, err := Read(Kuma, p); err != nil || got.Config.Inbound.ExcludePorts.String() != "22" {
		t.Errorf("JSON: %v, %v", got, err)
	}
	p.Annotations[kumaConfig] = "redirect: {}"
	if _, err := Read(Kuma, p); err == nil || !strings.Contains(err.Error(), "agentSocket") {
		t.Errorf("YAML: %v", err)
	}
	if d := Claims([]Dialect{Intercept}, "", map[string]string{IstioStatus: "{}"}); d != "" {
		t.Errorf("it is %q's, which nobody asked about", d)
	}
}

package inject

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/podspec"
	"github.com/mesh-intercept/intercept/podspec/probes"
)

// config is how the pod is to be intercepted.
func (i *injection) config() {
	annotations := maps.Clone(i.annotations)
	enabled := podspec.DefaultPrefix + "/" + podspec.Enabled
	if annotations[enabled] == "" {
		annotations[enabled] = "true"
	}
	spec, err := podspec.ReadUnlimited(annotations, podspec.Options{Defaults: i.p.Config})
	for _, e := range strict.Flatten(err) {
		// What an annotation has that does not go with the profile.
		if f, ok := errors.AsType[*intercept.FieldError](e); ok && f.Source == "" && f.Other != "" {
			k := slices.IndexFunc(i.p.settings, func(s decode.Setting) bool { return s.Field.Path == f.Other })
			e = &podspec.Error{Annotation: podspec.DefaultPrefix + "/" + i.p.settings[k].Field.Name, Err: fmt.Errorf(
				"profile %s has %w, or choose another profile", i.p.Name, f)}
		}
		i.errs.Add(e)
	}
	if i.rules = spec.Config; err != nil {
		i.rules = i.p.Config // to see what else is wrong
		return
	}
	i.relied()
	if i.rules.DNS.Mode != intercept.DNSOff && i.p.Resolver == "" && len(i.rules.DNS.Target) == 0 {
		i.errs.Add(&podspec.Error{Annotation: podspec.DefaultPrefix + "/dns", Err: fmt.Errorf(
			"%s, and profile %s has no resolver; choose one that has", i.rules.DNS.Mode, i.p.Name)})
	}
	// What the profile leaves alone, its health port above all, stays so whatever the pod adds.
	for _, r := range i.p.Config.Inbound.ExcludePorts {
		i.exclude(r)
	}
	i.probes()
}

// exclude leaves inbound ports alone, and reports whether they were not yet.
func (i *injection) exclude(r intercept.PortRange) bool {
	all := i.rules.Inbound.ExcludePorts
	more := append(slices.Clone(all), r).Merge()
	if more.Count() == all.Merge().Count() {
		return false
	}
	i.rules.Inbound.ExcludePorts = more
	return true
}

// relied refuses other values of the fields that the profile's sidecars rely on.
func (i *injection) relied() {
	was := i.p.settings
	for k, s := range decode.Settings(i.rules, true) {
		switch s.Field.Name {
		case "outbound-port", "inbound-port", "inbound-mode", "dns-port", "proxy-uid", "proxy-gid", "proxy-mark",
			"allow-root-proxy", "tproxy-mark", "tproxy-self-mark", "passthrough-sources":
			if s.Text != was[k].Text && s.Text != string(intercept.InboundOff) {
				i.errs.Add(&podspec.Error{Annotation: podspec.DefaultPrefix + "/" + s.Field.Name, Err: fmt.Errorf(
					"%s, and the sidecar of profile %s is made for %s; leave the annotation out, or write a profile", s.Text, i.p.Name,
					was[k].Text)})
			}
		}
	}
}

// probes sees to kubelet's calls, which come from outside, like everybody's: they go to
// the relay, or their ports are left alone.
func (i *injection) probes() {
	if i.rules.Inbound.Mode == intercept.InboundOff {
		return
	}
	if i.p.Relay != "" {
		i.exclude(intercept.Port(probes.DefaultPort))
		i.relay()
		return
	}
	for _, c := range i.containers() {
		for _, port := range probedPorts(c) {
			if !i.rules.Inbound.IncludePorts.Contains(port) || !i.exclude(intercept.Port(port)) {
				continue
			}
			i.did(fmt.Sprintf("inbound port %d is left alone", port),
				fmt.Sprintf("kubelet asks container %s there how it is", nameOf(c)))
			i.warn("port %d of container %s goes past the proxy, because kubelet's probes do: whoever reaches the pod "+
				"reaches it without the proxy", port, nameOf(c))
		}
	}
}

// relay points the probes at the relay.
func (i *injection) relay() {
	i.originals = probes.Originals{}
	for _, c := range i.containers() {
		done, err := probes.Rewrite(c, probes.DefaultPort, nil)
		if err != nil {
			i.errs.Add(probeErrors(c, err))
			continue
		}
		i.relayed.Probes = append(i.relayed.Probes, done.Probes...)
		maps.Copy(i.originals, done.Originals)
		for _, p := range done.Probes {
			i.did(fmt.Sprintf("%s of container %s is asked of %s", p.Kind, p.Container, i.p.Relay),
				"it comes from outside, where the proxy would answer it in the app's place")
		}
		for _, l := range done.Left {
			i.did(fmt.Sprintf("%s of container %s stays as it is", l.Kind, l.Container), l.Reason)
		}
	}
}

// probedPorts are those at which kubelet calls a container.
func probedPorts(c *yaml.Node) []uint16 {
	var all []uint16
	for _, at := range [][]string{{"readinessProbe"}, {"livenessProbe"}, {"startupProbe"}, {"lifecycle", "postStart"},
		{"lifecycle", "preStop"}} {
		handler := yamldoc.Get(c, at...)
		for _, kind := range []string{"httpGet", "tcpSocket", "grpc"} {
			n := yamldoc.Get(handler, kind, "port")
			if n == nil || yamldoc.Text(yamldoc.Get(handler, kind, "host")) != "" { // another host is not the pod
				continue
			}
			if port := portOf(c, yamldoc.Text(n)); port != 0 && !slices.Contains(all, port) {
				all = append(all, port)
			}
		}
	}
	return all
}

// portOf is a port by its number or by its name in a container, or 0.
func portOf(c *yaml.Node, text string) uint16 {
	for _, p := range yamldoc.Items(yamldoc.Get(c, "ports")) {
		if yamldoc.Text(yamldoc.Get(p, "name")) == text {
			text = yamldoc.Text(yamldoc.Get(p, "containerPort"))
		}
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}

// containers are the pod's own, of every kind.
func (i *injection) containers() []*yaml.Node {
	var all []*yaml.Node
	for _, list := range []string{initSequence, containers, "ephemeralContainers"} {
		for _, c := range yamldoc.Items(yamldoc.Get(i.spec, list)) {
			if !slices.Contains(i.p.Sidecars(), nameOf(c)) && nameOf(c) != i.p.initName() {
				all = append(all, c)
			}
		}
	}
	return all
}

// check refuses pods that would not work, or would not be intercepted.
func (i *injection) check() {
	i.mode()
	security := yamldoc.Get(i.spec, "securityContext")
	reserved := i.reserved()
	for _, c := range i.containers() {
		at := "container " + nameOf(c)
		if runsAs(i.rules.Proxy, c, security) {
			i.errs.Add(fieldError(at, c, "it runs as the proxy (users %s, groups %s), and nothing that it sends would be "+
				"captured; give it another runAsUser and runAsGroup", i.rules.Proxy.UIDs, i.rules.Proxy.GIDs))
		}
		for _, p := range yamldoc.Items(yamldoc.Get(c, "ports")) {
			n := yamldoc.Get(p, "containerPort")
			port, err := strconv.ParseUint(yamldoc.Text(n), 10, 16)
			if by := reserved[uint16(port)]; err == nil && by != "" {
				i.errs.Add(fieldError(at, n, "port %d is that of %s; let the app listen at another one", port, by))
			}
		}
	}
	if i.Mode == ModeCNI {
		class := yamldoc.Text(yamldoc.Get(i.spec, "runtimeClassName"))
		if why := podspec.Foreign(i.annotations, podspec.RefusedRuntimes(), class); why != "" {
			i.errs.Add(fieldError("spec.runtimeClassName", yamldoc.Get(i.spec, "runtimeClassName"),
				"%s, where rules of the node have no effect; choose mode init", why))
		}
	}
}

// reserved says whose the ports are that no app can have.
func (i *injection) reserved() map[uint16]string {
	all := map[uint16]string{}
	span := func(r intercept.PortRange, by string) {
		for port := int(r.First); port <= int(r.Last); port++ {
			all[uint16(port)] = by
		}
	}
	for _, c := range i.p.sidecars {
		for _, p := range yamldoc.Items(yamldoc.Get(c, "ports")) {
			if port, err := strconv.ParseUint(yamldoc.Text(yamldoc.Get(p, "containerPort")), 10, 16); err == nil {
				all[uint16(port)] = "sidecar " + nameOf(c)
			}
		}
	}
	span(i.rules.Outbound.Port, "the proxy")
	span(i.rules.Inbound.Port, "the proxy")
	if i.rules.DNS.Mode != intercept.DNSOff {
		span(intercept.Port(i.rules.DNS.Port), "the resolver")
	}
	return all
}

// mode chooses who writes the rules.
func (i *injection) mode() {
	confined := i.in.PodSecurity == "baseline" || i.in.PodSecurity == "restricted"
	i.Mode = i.p.Mode
	switch {
	case i.Mode == ModeAuto && confined:
		i.Mode = ModeCNI
		i.did("the node writes the rules (mode cni)", fmt.Sprintf(
			"Pod Security %s of the namespace admits no init container with NET_ADMIN", i.in.PodSecurity))
		i.warn("mode cni: nothing is intercepted on nodes without mesh-cni; `kubectl get daemonset -n mesh-system " +
			"mesh-cni-agent` shows whether all have it")
	case i.Mode == ModeAuto:
		i.Mode = ModeInit
	case i.Mode == ModeInit && confined:
		i.errs.Add(fieldError("", nil, "Pod Security %s of the namespace admits no init container with NET_ADMIN; choose "+
			"mode cni, "+
			"with mesh-cni on the nodes (docs/cni.md)", i.in.PodSecurity))
	}
	if confined && slices.ContainsFunc(i.p.sidecars, mayBeTransparent) {
		i.errs.Add(fieldError("", nil, "Pod Security %s of the namespace admits no sidecar with NET_ADMIN or NET_RAW, as "+
			"profile %s "+
			"has; choose one without mode tproxy", i.in.PodSecurity, i.p.Name))
	}
}

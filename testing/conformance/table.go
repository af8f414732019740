//go:build linux

// Package conformance is the policy of docs/policy.md as packets: flows under
// configurations, each with the fate it has to meet and the line that decides.
//
// The table is data, in table.yaml, for anybody's backend. Its tests run it
// through Ruleset.Trace and through the kernel.
package conformance

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

//go:embed table.yaml
var table []byte

// Case is a configuration, the sidecar that runs under it, and its flows.
type Case struct {
	Name    string
	Config  intercept.Config
	Sidecar netlab.SidecarConfig
	Flows   []Flow
	// VM is true if flows come from a machine behind the pod.
	VM bool
}

// Flow is a flow, the fate it has to meet, and the line of the policy that
// decides. Line is empty where no rule looks at the flow.
type Flow struct {
	netlab.Flow
	Line string
	Fate string // as intercept.Fate's String
}

// Options are those of the lab in which the case can be run.
func (c Case) Options() netlab.Options { return netlab.Options{SecondInterface: true, VM: c.VM} }

// people are owners by name; others are written "UID:GID".
var people = map[string]string{"root": "0:0", "app": "1000:1000", "proxy": "1337:1337"}

type rawCase struct {
	Name    string          `json:"name"`
	Why     string          `json:"why"`
	Config  json.RawMessage `json:"config"`
	Sidecar struct {
		Outbound uint16 `json:"outbound"`
		Inbound  uint16 `json:"inbound"`
		DNS      uint16 `json:"dns"`
		UID      uint32 `json:"uid"`
		GID      uint32 `json:"gid"`
		// Transparent sidecars listen with IP_TRANSPARENT.
		Transparent bool `json:"transparent"`
	} `json:"sidecar"`
	Flows []rawFlow `json:"flows"`
}

type rawFlow struct {
	Line  string `json:"line"`
	From  string `json:"from"`  // "pod" (the default), "peer" or "vm"
	As    string `json:"as"`    // who sends, from the pod
	Mark  uint32 `json:"mark"`  // of the sender's socket
	Proto string `json:"proto"` // "tcp" (the default) or "udp"
	Src   string `json:"src"`   // an address or a word; default the kernel's choice
	To    string `json:"to"`    // an address or a word, and a port
	Fate  string `json:"fate"`
}

// Cases returns the table.
func Cases() ([]Case, error) {
	var raw []rawCase
	if err := yaml.UnmarshalStrict(table, &raw, yaml.DisallowUnknownFields); err != nil {
		return nil, fmt.Errorf("table.yaml: %w", err)
	}
	cases := make([]Case, len(raw))
	for i, r := range raw {
		c, err := r.decode()
		if err != nil {
			return nil, fmt.Errorf("table.yaml: %s: %w", r.Name, err)
		}
		cases[i] = c
	}
	return cases, nil
}

func (r rawCase) decode() (Case, error) {
	c := Case{Name: r.Name, Config: intercept.Default()}
	if len(r.Config) > 0 {
		d := json.NewDecoder(bytes.NewReader(r.Config))
		d.DisallowUnknownFields()
		if err := d.Decode(&c.Config); err != nil {
			return Case{}, err
		}
	}
	if err := c.Config.Validate(); err != nil {
		return Case{}, err
	}
	s := r.Sidecar
	c.Sidecar = netlab.SidecarConfig{DNSPort: s.DNS, Transparent: s.Transparent}
	if s.Outbound != 0 {
		c.Sidecar.Outbound = intercept.Port(s.Outbound)
	}
	if s.Inbound != 0 {
		c.Sidecar.Inbound = intercept.Port(s.Inbound)
	}
	if s.UID != 0 {
		c.Sidecar.Owner = &intercept.Owner{UID: s.UID, GID: s.GID}
	}
	for _, f := range r.Flows {
		flows, err := f.decode()
		if err != nil {
			return Case{}, fmt.Errorf("flow %+v: %w", f, err)
		}
		c.Flows = append(c.Flows, flows...)
		c.VM = c.VM || f.From == "vm"
	}
	return c, nil
}

// decode returns one flow, or one for each family.
func (r rawFlow) decode() ([]Flow, error) {
	f := Flow{Line: r.Line, Fate: r.Fate}
	switch r.From {
	case "", "pod":
		owner, err := parseOwner(r.As)
		if err != nil {
			return nil, err
		}
		f.Owner, f.Mark = &owner, r.Mark
	case "peer":
		f.From = netlab.FromPeer
	case "vm":
		f.From = netlab.FromVM
	default:
		return nil, fmt.Errorf("from %q", r.From)
	}
	f.Protocol = intercept.TCP
	if r.Proto != "" {
		p, err := intercept.ParseProtocol(r.Proto)
		if err != nil {
			return nil, err
		}
		f.Protocol = p
	}
	host, port, found := cutLast(r.To, ":")
	if !found {
		return nil, fmt.Errorf("to %q has no port", r.To)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	dsts, err := netlab.Addresses(strings.Trim(host, "[]"))
	if err != nil {
		return nil, err
	}
	var flows []Flow
	for _, dst := range dsts {
		f.Dst = netip.AddrPortFrom(dst, uint16(n))
		f.Src = netip.AddrPort{}
		if r.Src != "" {
			srcs, err := netlab.Addresses(r.Src)
			if err != nil {
				return nil, err
			}
			for _, src := range srcs {
				if src.Is4() == dst.Is4() {
					f.Src = netip.AddrPortFrom(src, 0)
				}
			}
		}
		flows = append(flows, f)
	}
	return flows, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func parseOwner(s string) (intercept.Owner, error) {
	if ids, ok := people[s]; ok {
		s = ids
	}
	var o intercept.Owner
	if n, err := fmt.Sscanf(s, "%d:%d", &o.UID, &o.GID); n != 2 {
		return o, fmt.Errorf("as %q is neither root, app, proxy nor UID:GID: %w", s, err)
	}
	return o, nil
}

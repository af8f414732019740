package intercept

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// ParseVirtualNetwork reads the text form, an interface and the networks behind it: `docker0:172.17.0.0/16`.
func ParseVirtualNetwork(s string) (VirtualNetwork, error) {
	name, text, found := strings.Cut(strings.TrimSpace(s), ":") // no interface has a colon in its name
	if !found || name == "" {
		return VirtualNetwork{}, fmt.Errorf("write an interface and its networks, as in docker0:172.17.0.0/16")
	}
	cidrs, err := property(text, ParseCIDRs)
	return VirtualNetwork{name, cidrs}, err
}

// String returns the text form, which [ParseVirtualNetwork] reads.
func (n VirtualNetwork) String() string { return n.Interface + ":" + n.CIDRs.String() }

// MarshalText writes the text form.
func (n VirtualNetwork) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads the text form.
func (n *VirtualNetwork) UnmarshalText(b []byte) (err error) {
	*n, err = ParseVirtualNetwork(string(b))
	return err
}

// MarshalJSON writes an object.
func (n VirtualNetwork) MarshalJSON() ([]byte, error) {
	type plain VirtualNetwork // without this method
	return json.Marshal(plain(n))
}

// UnmarshalJSON reads an object, or the text form. It is as strict as that of [Config].
func (n *VirtualNetwork) UnmarshalJSON(b []byte) error { return unmarshalJSON(b, n) }

// UnmarshalYAML reads a mapping, or the text form. It is as strict as that of [Config].
func (n *VirtualNetwork) UnmarshalYAML(unmarshal func(any) error) error {
	return unmarshalYAML(unmarshal, n)
}

// networksBehind are the networks of one of the virtual interfaces.
func (c Config) networksBehind(name string) (all CIDRs) {
	for _, n := range c.VirtualNetworks {
		if n.Interface == name {
			all = append(all, n.CIDRs...)
		}
	}
	return all
}

// virtualNetworks says what is wrong with them.
func (v *validator) virtualNetworks(c Config) {
	for i, n := range c.VirtualNetworks {
		field := fmt.Sprintf("virtualNetworks[%d]", i)
		if !slices.Contains(c.VirtualInterfaces, n.Interface) {
			v.fail(field+".interface", "%q is not one of virtualInterfaces; name it there, too", strict.Clip(n.Interface))
		}
		if len(n.CIDRs) == 0 {
			v.fail(field+".cidrs", "no network")
		}
		v.cidrs(field+".cidrs", n.CIDRs)
	}
}

package intercept_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
)

func TestParseVirtualNetwork(t *testing.T) {
	for text, want := range map[string]intercept.VirtualNetwork{
		"docker0:172.17.0.0/16":   {Interface: "docker0", CIDRs: mustCIDRs(t, "172.17.0.0/16")},
		"br-*:10.0.0.0/8,fd00::1": {Interface: "br-*", CIDRs: mustCIDRs(t, "10.0.0.0/8,fd00::1")},
		"eth1:fd00::/8":           {Interface: "eth1", CIDRs: mustCIDRs(t, "fd00::/8")},
	} {
		got, err := intercept.ParseVirtualNetwork(text)
		if err != nil || !reflect.DeepEqual(got, want) || got.String() != text {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		var decoded intercept.VirtualNetwork
		if b, err := json.Marshal(got.String()); err != nil || json.Unmarshal(b, &decoded) != nil || !reflect.DeepEqual(decoded, want) {
			t.Errorf("%q as JSON: %v, %v", text, decoded, err)
		}
	}
	for text, want := range map[string]string{
		"": "an interface and its networks", "docker0": "an interface and its networks", ":10.0.0.0/8": "an interface",
		"docker0:": "empty list", "docker0:none": "empty list", "docker0:10.0.0.0/33": "10.0.0.0/33",
	} {
		if n, err := intercept.ParseVirtualNetwork(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", text, n, err)
		}
	}
}

package cniconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/peers/pods"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/podspec"
)

func equal(a, b any) string {
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
}

func TestParse(t *testing.T) {
	got, err := Parse([]byte(`{"cniVersion":"1.1.0","name":"n","type":"mesh-cni","args":{},"dns":{},"ipam":{},
		"prevResult":{},"runtimeConfig":{},"cni.dev/valid-attachments":[],"cni.dev/attachments":[],"capabilities":{"a":true},
		"backend":"nft","failurePolicy":"allow","excludeNamespaces":[],
		"agentSocket":"/run/a.sock","agentTimeout":"500ms","agentPod":"a/b-*","annotationPrefix":"x.y",
		"dialects":["istio","intercept"],
		"defaults":{"tunnelPort":0,"dns":{"mode":"resolvconf"}},"runtime":"runc","refuseRuntimes":["a*"],
		"logFile":"","logLevel":"debug","logMaxSize":65536}`))
	if err != nil {
		t.Fatal(err)
	}
	defaults := intercept.Default()
	defaults.TunnelPort, defaults.DNS.Mode = 0, intercept.DNSResolvConf
	want := Conf{
		Backend:          dataplane.BackendNFT,
		FailurePolicy:    PolicyAllow,
		AgentSocket:      "/run/a.sock",
		AgentTimeout:     500 * time.Millisecond,
		AgentPod:         "a/b-*",
		AnnotationPrefix: "x.y",
		Dialects:         []pods.Dialect{pods.Istio, pods.Intercept},
		Defaults:         defaults,
		Runtime:          "runc",
		RefuseRuntimes:   []string{"a*"},
		LogLevel:         "debug",
		LogMaxSize:       65536,
		Capabilities:     map[string]bool{"a": true},
	}
	if diff := equal(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDefaults: the table's are those of an entry that says nothing.
func TestDefaults(t *testing.T) {
	for _, f := range Fields() {
		if f.Usage == "" || f.Form == "" {
			t.Errorf("%+v", f)
		}
		if f.Name == "runtime" { // it cannot be given empty
			continue
		}
		c, err := Parse([]byte(`{"` + f.Name + `":` + f.Initial + `}`))
		if diff := equal(Default(), c); err != nil || diff != "" {
			t.Errorf("%s: %v, %s", f.Name, err, diff)
		}
	}
	var conf any = Default()
	if b, err := json.Marshal(conf); err != nil || len(b) == 0 {
		t.Error(err)
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:                  "not a JSON object",
		`{"agentSockt":"/x"}`: `agentSockt: unknown field, with the value "/x"; did you mean agentSocket?`,
		`{"Backend":"nft"}`:   "Backend: unknown field",
		`{"backend":"NFT"}`: `backend: "NFT" is not one of auto, nft, iptables, iptables-nft, ` +
			`iptables-legacy`,
		`{"backend":null}`:                     "backend: null is not a string",
		`{"failurePolicy":true}`:               "failurePolicy: true is not a string",
		`{"excludeNamespaces":"a"}`:            `excludeNamespaces: "a" is not a list`,
		`{"excludeNamespaces":["a/b",""]}`:     `excludeNamespaces: "" is not a name`,
		`{"agentSocket":"run/x"}`:              `agentSocket: "run/x" is not the absolute path`,
		`{"agentTimeout":"2"}`:                 `agentTimeout: "2" is not a duration`,
		`{"agentTimeout":"1h"}`:                `agentTimeout: "1h" is not a duration from 10ms to 1m`,
		`{"agentPod":"x"}`:                     `agentPod: "x" is not NAMESPACE/NAME`,
		`{"annotationPrefix":"a/b"}`:           `annotationPrefix: "a/b" is not a prefix`,
		`{"dialects":["istio","envoy"]}`:       `dialects: "envoy" is not one of intercept, istio, linkerd, kuma, consul`,
		`{"dialects":[]}`:                      "dialects: an empty list",
		`{"dialects":["kuma","kuma"]}`:         "dialects: kuma is there twice",
		`{"defaults":{"outboud":{}}}`:          "defaults: outboud: unknown field; did you mean outbound?",
		`{"defaults":{"proxy":{"uids":[0]}}}`:  "defaults: proxy.uids: 0",
		`{"defaults":[]}`:                      "defaults: a list where fields belong",
		`{"refuseRuntimes":["[a"]}`:            `refuseRuntimes: "[a" is not a glob`,
		`{"logMaxSize":"10MB"}`:                `logMaxSize: "10MB" is not a number of bytes`,
		`{"logMaxSize":1}`:                     "logMaxSize: 1 is not a number of bytes from 65536",
		`{"logLevel":"loud"}`:                  `logLevel: "loud" is not one of`,
		`{"capabilities":[]}`:                  "capabilities: [] is not an object",
		`{"x":1,"backend":"y","logLevel":"z"}`: "x: unknown field",
	} {
		c, err := Parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
			continue
		}
		for _, e := range strict.Flatten(err) {
			if conf, ok := errors.AsType[*Error](e); !ok || conf.Unknown != strings.Contains(e.Error(), "unknown field, with") {
				t.Errorf("%s: %T %v", text, e, e)
			}
		}
		if c.Backend == "" || c.LogLevel == "" || c.Defaults.Validate() != nil {
			t.Errorf("%s: %+v", text, c)
		}
	}
}

// TestLimitErrors: each names the annotation and what is wrong with its limit.
func TestLimitErrors(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:                      "[] is not an object of limits",
		`{"proxy-uid":"16"}`:      `proxy-uid: "16" is not a limit; write "free", "fixed", a number`,
		`{"proxy-uid":true}`:      "proxy-uid: true is not a limit",
		`{"proxy-uid":-1}`:        "proxy-uid: -1 is not a limit",
		`{"proxy-uid":null}`:      "proxy-uid: null is not a limit",
		`{"proxy-uid":[]}`:        "proxy-uid: [] is not a limit",
		`{"proxy-uids":5}`:        "proxy-uids: no annotation of a field; did you mean proxy-uid?",
		`{"*":5}`:                 `*: 5 is not a limit of all annotations; write "free" or "fixed"`,
		`{"dns":["all","!off"]}`:  `dns: "all" says what there may be, and "!off" what there may not be`,
		`{"dns":[1]}`:             "dns: 1 is not a string",
		`{"dns":["on"]}`:          `dns: "on" is not one of off, resolvconf, all`,
		`{"dns":"fixed","dns":5}`: `dns: "dns" is there twice`,
		`{"inbound-exclude-sources":"/4294967302"}`: `inbound-exclude-sources: "/4294967302" is not a limit`,
		`{"inbound-exclude-sources":"/33"}`:         `inbound-exclude-sources: "/33" is not the length of an IPv4 prefix`,
	} {
		_, err := Parse([]byte(`{"annotationLimits":` + text + `}`))
		if e, ok := errors.AsType[*Error](err); !ok || e.Field != "annotationLimits" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %s", text, err, want)
		}
	}
}

// TestLimits: what is given replaces the bound of that annotation alone, and "*"
// those of all others.
func TestLimits(t *testing.T) {
	for text, change := range map[string]func(podspec.Limits){
		`{}`: func(podspec.Limits) {},
		`{"proxy-uid":3,"dns":["off","all"],"exclude-interfaces":["!lo1","!eth*"],"inbound-exclude-sources":"/0"}`: func(
			l podspec.Limits) {
			l["proxy-uid"], l["dns"], l["exclude-interfaces"] = podspec.Most(3), podspec.OneOf{"off", "all"},
				podspec.NoneOf{"lo1", "eth*"}
			l["inbound-exclude-sources"] = podspec.Network(0)
		},
		`{"proxy-uid":"free","outbound-exclude":"fixed","inbound-exclude":"by-property"}`: func(l podspec.Limits) {
			l["proxy-uid"], l["outbound-exclude"], l["inbound-exclude"] = podspec.Free{}, podspec.Fixed{}, podspec.ByProperty{}
		},
		`{"outbound-exclude-ports":100,"*":"fixed"}`: func(l podspec.Limits) {
			for _, f := range decode.Fields() {
				l[f.Name] = podspec.Fixed{}
			}
			l["outbound-exclude-ports"] = podspec.Most(100)
		},
	} {
		c, err := Parse([]byte(`{"annotationLimits":` + text + `}`))
		want := podspec.DefaultLimits()
		change(want)
		if diff := cmp.Diff(want, c.Limits()); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
		// What the limits are called in errors and documents is what can be written.
		var all []string
		for name, b := range c.Limits() {
			all = append(all, fmt.Sprintf("%q:%s", name, b))
		}
		again, err := Parse([]byte(`{"annotationLimits":{` + strings.Join(all, ",") + `}}`))
		if diff := cmp.Diff(want, again.Limits()); err != nil || diff != "" {
			t.Errorf("%s, written again: %v\n%s", text, err, diff)
		}
	}
}

// TestLines: in an entry of several lines each mistake has its own.
func TestLines(t *testing.T) {
	_, err := Parse([]byte("{\n\"backend\": \"x\",\n\"defaults\": {\n\"tunnelPort\": -1},\n\"logLevel\": " +
		"\"info\",\n\"logLevel\": \"warn\"}"))
	want := []string{
		`backend: "x" is not one of auto, nft, iptables, iptables-nft, iptables-legacy (line 2)`,
		`defaults: tunnelPort: "-1" is not a port (a number from 1 to 65535) (line 4)`,
		`logLevel: it is there twice (line 6)`,
	}
	var got []string
	for _, e := range strict.Flatten(err) {
		got = append(got, e.Error())
	}
	if diff := equal(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// FuzzParse holds that any bytes give an error or a Conf whose defaults can be
// worked with, without a panic.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"defaults":{"dns":{"mode":"all"}},"agentTimeout":"1s","logMaxSize":65536,"x":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err == nil && c.Defaults.DNS.Mode != intercept.DNSResolvConf && c.Defaults.Validate() != nil {
			t.Fatalf("%s is accepted, but %v", b, c.Defaults.Validate())
		}
		if err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Fatal("an empty error")
		}
	})
}

//go:build linux

package main

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// TestResultsSchema: what each verb prints as JSON is of its part of docs/results.schema.json, and of no other: in a
// namespace with rules of others, before ours are there and after, with nothing wrong and with much.
func TestResultsSchema(t *testing.T) {
	all := schemaOf(t, "results.schema.json")
	ns := supportNamespace(t)
	netlab.RequireProgram(t, "nft")
	listenInPlace(t, ns)
	foreign := `table ip other { chain out { type nat hook output priority -199; tcp dport 5432 redirect to :9999; }; }`
	manifest := `{apiVersion: v1, kind: Pod, metadata: {name: web, annotations: {intercept.mesh/enabled: "true"}},
		spec: {hostNetwork: true, containers: [{name: app, image: app}]}}`
	for _, test := range []struct {
		verb string
		args []string
		code int
		says string // in what is printed
	}{
		{verb: "check", code: 10, says: "there are none of ours"},
		{verb: "apply", args: []string{"--dry-run"}}, // the rules, as render prints them
		{verb: "remove", args: []string{"--dry-run"}, says: `"parts": []`},
		{verb: "doctor", says: `"iptables-nft"`},
		{verb: "apply", args: []string{"--outbound-port", "15001-15002"}, says: `"created"`},
		{verb: "apply", args: []string{"--outbound-port", "15001-15002"}, says: `"unchanged"`},
		{verb: "check", says: `"ok": true`},
		{verb: "status", says: `"who listens at 15001-15002 is user 0, not the proxy: mesh-init verify tries it"`},
		{verb: "doctor", says: `"present": [`},
		{verb: "remove", args: []string{"--dry-run"}, says: `"nft"`},
		{verb: "nft", args: []string{foreign}},
		{verb: "nft", args: []string{"flush chain inet mesh_intercept output"}},
		{verb: "check", code: 11, says: `"problem": "missing"`},
		{verb: "status", says: `"differences"`},
		{verb: "doctor", says: `"redirect"`},
		{verb: "apply", args: []string{"--backend", "iptables-nft"}, says: `"replaced"`},
		{verb: "status", says: "the word of alice"},
		{verb: "status", says: `"who listens at 15001 is user 0, not the proxy: mesh-init verify tries it"`},
		{verb: "remove", args: []string{"--foreign", "istio"}, says: `"removed": false`},
		{verb: "remove", says: `"removed": true`},
		{verb: "render", args: []string{"--inbound-mode", "tproxy", "--dns", "all"}, says: `"chains"`},
		{verb: "lint", args: []string{"-f", "-"}, code: 23, says: `"happens"`},
		{verb: "version", says: `"revision"`},
	} {
		if test.verb == "nft" {
			nft := exec.Command("nft", test.args...)
			if err := errors.Join(ns.Start(nft, nil), nft.Wait()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		args := append([]string{test.verb, "-o", "json"}, test.args...)
		switch test.verb {
		case "render", "lint", "version":
		default:
			args = append(args, "-n", ns.Path())
		}
		var out, said bytes.Buffer
		if code := run(t.Context(), args, nil, strings.NewReader(manifest), &out, &said); code != test.code {
			t.Errorf("%q: exit code %d: %s", args, code, &said)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(out.Bytes()))
		if err != nil {
			t.Fatalf("%q: %v: %s", args, err, &out)
		}
		part := test.verb
		if len(test.args) == 1 && test.args[0] == "--dry-run" && part == "apply" {
			part = "render"
		}
		for _, s := range []*jsonschema.Schema{all, schemaOf(t, "results.schema.json#/$defs/"+part)} {
			if err := s.Validate(doc); err != nil {
				t.Errorf("%q: %v\n%s", args, err, &out)
			}
		}
		if !strings.Contains(out.String(), test.says) {
			t.Errorf("%q: there is no %s in %s", args, test.says, &out)
		}
	}
}

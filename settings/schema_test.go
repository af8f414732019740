package settings_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/settings"
	"github.com/mesh-intercept/intercept/testing/gen"
)

const schemaFile = "../docs/config.schema.json"

// TestSchemaIsCurrent: MESH_TEST_UPDATE=1 writes the file.
func TestSchemaIsCurrent(t *testing.T) {
	want := settings.Schema()
	if os.Getenv("MESH_TEST_UPDATE") != "" {
		if err := os.WriteFile(schemaFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(schemaFile)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf(
			"%s is not what the table of fields makes (%v); MESH_TEST_UPDATE=1 go test ./settings writes it",
			schemaFile,
			err,
		)
	}
}

func compile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(settings.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("config.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("config.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// validate reads YAML as editors do, and holds it against the schema.
func validate(t *testing.T, schema *jsonschema.Schema, text []byte) error {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(doc)
}

// TestSchemaAcceptsWhatIsWritten: configurations, as each writer writes them.
func TestSchemaAcceptsWhatIsWritten(t *testing.T) {
	schema := compile(t)
	for seed := range uint64(300) {
		c := gen.Config(rand.New(rand.NewPCG(seed, 1)))
		data, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range [][]byte{data, settings.YAML(c), settings.YAML(c, settings.All)} {
			if err := validate(t, schema, text); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
		}
	}
}

// TestSchemaAgreesWithTheReader: both accept a document, or both refuse it.
func TestSchemaAgreesWithTheReader(t *testing.T) {
	schema := compile(t)
	for text, good := range map[string]bool{
		"{}":                                           true,
		"outbound: {port: '15001-15004'}":              true,
		"outbound: {excludePorts: '80, 90-95'}":        true,
		"outbound: {excludePorts: [80, '90-95']}":      true,
		"outbound: {excludePorts: none}":               true,
		"inbound: {includePorts: 80}":                  true,
		"outbound: {excludeCIDRs: '10.0.0.0/8,::1'}":   true,
		"outbound: {exclude: ['udp :53', {gids: 7}]}":  true,
		"inbound: {exclude: [':53', {ports: [7]}]}":    true,
		"inbound: {mode: off}":                         true,
		"inbound: {dropInvalid: 'true'}":               true,
		"proxy: {mark: 0x700/0xf00, uids: '1-5,7'}":    true,
		"proxy: {mark: 5}":                             true,
		"tunnelPort: none":                             true,
		"dns: {servers: [10.0.0.1], mode: resolvconf}": true,
		"excludeInterfaces: [a, b*]":                   true,
		"outbound: {excludePort: [80]}":                false,
		"outbund: {}":                                  false,
		"outbound: {exclude: [{port: 53}]}":            false,
		"outbound: {exclude: [{}]}":                    false,
		"outbound: {exclude: 'udp :53; uid=7'}":        true,
		"inbound: {tproxy: {tables: 7}}":               false,
		"inbound: {mode: nat}":                         false,
		"inbound: []":                                  false,
		"dns: {servers: '10.0.0.1, fd00::1'}":          true,
		"excludeInterfaces: a":                         true,
		"excludeInterfaces: {a: 1}":                    false,
		"outbound: {excludePorts: [x]}":                false,
		"outbound: {excludePorts: {a: 1}}":             false,
		"tunnelPort: 70000":                            false,
		"tunnelPort: null":                             false,
		"proxy: {allowRoot: 1}":                        false,
		"proxy: {uids: [root]}":                        false,
		"families: [ipv4]":                             false,
		"otherFamily: drop":                            false,
	} {
		_, loadErr := settings.Load([]byte(text))
		err := validate(t, schema, []byte(text))
		if (err == nil) != good || (loadErr == nil) != good {
			t.Errorf("%s: the schema: %v; the reader: %v; want it accepted: %t", text, err, loadErr, good)
		}
	}
	if !strings.Contains(string(settings.Schema()), "ports to leave alone") {
		t.Error("the fields' meanings are missing")
	}
}

package decode

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// object is a piece of JSON Schema.
type object map[string]any

// Schema is a configuration file's JSON Schema (draft 2020-12). It accepts what
// the reader accepts, and refuses what is unknown or of the wrong type.
func Schema() []byte {
	defaults := intercept.Default()
	root := schemaOf("", reflect.ValueOf(&defaults).Elem())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Configuration of Intercept"
	root["description"] = "Which of a pod's connections go through its proxy, and who the proxy is."
	root["$defs"] = definitions()
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(err) // it is made of maps, lists and strings
	}
	return append(text, '\n')
}

func schemaOf(path string, v reflect.Value) object {
	if strict.IsStruct(v.Type()) {
		properties := object{}
		for i, name := range strict.FieldNames(v.Type()) {
			properties[name] = schemaOf(strings.TrimPrefix(path+"."+name, "."), v.Field(i))
		}
		return object{"type": "object", "additionalProperties": false, "properties": properties}
	}
	of := object{"default": v.Interface()}
	for _, f := range Fields() {
		if f.Path == path {
			of["description"] = f.Meaning()
			if choices := f.Choices(); choices != nil && !f.IsSwitch() {
				of["enum"] = choices
				return of
			}
		}
	}
	if v.Kind() == reflect.Slice && v.Len() == 0 {
		of["default"] = []any{}
	}
	of["$ref"] = "#/$defs/" + definition(v.Interface())
	return of
}

// definition names the type of a value among the definitions.
func definition(value any) string {
	switch value.(type) {
	case intercept.PortRange:
		return "portRange"
	case intercept.Ports:
		return "ports"
	case intercept.IDs:
		return "ids"
	case intercept.CIDRs:
		return "cidrs"
	case intercept.Mark:
		return "mark"
	case uint16:
		return "port"
	case bool:
		return "switch"
	case []netip.Addr, []netip.AddrPort:
		return "addresses"
	case []string:
		return "names"
	case []intercept.Exclusion:
		return "exclusions"
	case []intercept.InboundExclusion:
		return "inboundExclusions"
	case []intercept.VirtualNetwork:
		return "virtualNetworks"
	}
	return "number"
}

func definitions() object {
	const one = `[0-9]+(-[0-9]+)?`
	const item, list = `^` + one + `$`, `^\s*(none|` + one + `(\s*,\s*` + one + `)*)\s*$`
	const listOrAll = `^\s*(\*|none|` + one + `(\s*,\s*` + one + `)*)\s*$`
	port := object{"type": "integer", "minimum": 1, "maximum": 65535}
	id := object{"type": "integer", "minimum": 0, "maximum": uint32(intercept.MaxID)}
	number := object{"type": "integer", "minimum": 0, "maximum": uint32(1<<32 - 1)}
	matching := func(pattern string) object { return object{"type": "string", "pattern": pattern} }
	array := func(items object) object { return object{"type": "array", "items": items} }
	either := func(of ...object) object { return object{"anyOf": of} }
	ref := func(name string) object { return object{"$ref": "#/$defs/" + name} }
	text := func(form string) object { return object{"type": "string", "description": form} }
	fields := func(properties object) object {
		return object{"type": "object", "additionalProperties": false, "minProperties": 1, "properties": properties}
	}
	// Several have semicolons between them, or each is an item.
	rules := func(form string, properties object) object {
		return either(text(form+"; …"), array(either(text(form), fields(properties))))
	}
	return object{
		"portRange": either(port, matching(item)),
		"port":      either(object{"type": "integer", "minimum": 0, "maximum": 65535}, matching(`^([0-9]+|none)$`)),
		"ports":     either(port, matching(listOrAll), array(either(port, matching(listOrAll)))),
		"ids":       either(id, matching(list), array(either(id, matching(list)))),
		"cidrs": either(text("CIDRs and addresses, with commas between them; * for all, none for none"),
			array(object{"type": "string"})),
		"mark":      either(number, matching(`^(none|[0-9a-zA-Z_]+(/[0-9a-zA-Z_]+)?)$`)),
		"number":    either(number, matching(`^[0-9]+$`)),
		"switch":    object{"enum": []any{true, false, "true", "false"}},
		"addresses": either(text("addresses, with commas between them; none for none"), array(object{"type": "string"})),
		"names": either(text("names, with commas between them; none for none"),
			array(object{"type": "string", "maxLength": 15})),
		"exclusions": rules("[tcp|udp] [CIDRS][:PORTS] [uid=IDS] [gid=IDS]", object{
			"protocol": object{"enum": []string{"tcp", "udp"}},
			"cidrs":    ref("cidrs"), "ports": ref("ports"), "uids": ref("ids"), "gids": ref("ids"),
		}),
		"inboundExclusions": rules("[CIDRS][:PORTS]", object{"sources": ref("cidrs"), "ports": ref("ports")}),
		"virtualNetworks": rules("INTERFACE:CIDRS", object{
			"interface": object{"type": "string", "maxLength": 15}, "cidrs": ref("cidrs"),
		}),
	}
}

package inject

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// check reports what of a resolved node is not as its type has it: fields that there
// are not, and values of the wrong kind. Whether the values are good, the API server
// knows.
func (s schema) check(errs *strict.Errors, path, typ string, n *yaml.Node) {
	fail := func(format string, args ...any) {
		errs.Add(&strict.Error{Path: path, Line: n.Line, Err: fmt.Errorf(format, args...)})
	}
	typ, _, _ = strings.Cut(typ, "/")
	typ, nullable := strings.CutSuffix(typ, "?")
	switch item, list := strings.CutPrefix(typ, "[]"); {
	case typ == "any" || nullable && yamldoc.IsNull(n):
	case yamldoc.IsNull(n):
		fail("no value: write one, or leave the field out")
	case list && n.Kind != yaml.SequenceNode:
		fail("%s where a list belongs", kindOf(n))
	case list:
		for i, v := range n.Content {
			s.check(errs, path+"["+strconv.Itoa(i)+"]", item, v)
		}
	case strings.HasPrefix(typ, "{}"), s[typ] != nil:
		if n.Kind != yaml.MappingNode {
			fail("%s where fields belong", kindOf(n))
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, v := n.Content[i], n.Content[i+1]
			of := s[typ][key.Value]
			if of == "" {
				of = s[typ]["*"]
			}
			if s[typ] == nil {
				of = typ[len("{}"):]
			}
			if of == "" {
				errs.Add(&strict.Error{Path: strict.Join(path, strict.Clip(key.Value)), Line: key.Line, Err: fmt.Errorf(
					"unknown field; %s", strict.Hint(key.Value, slices.Sorted(maps.Keys(s[typ])), "Kubernetes has none of that name "+
						"here"))})
				continue
			}
			s.check(errs, strict.Join(path, strict.Clip(key.Value)), of, v)
		}
	default:
		if err := scalar(typ, n); err != nil {
			fail("%w", err)
		}
	}
}

func scalar(typ string, n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("%s where one value belongs", kindOf(n))
	}
	tag, value := n.ShortTag(), strict.Clip(n.Value)
	switch {
	case typ == "string" && tag != "!!str":
		return fmt.Errorf("%s where a text belongs; write it in quotes", value)
	case typ == "bool" && tag != "!!bool":
		return fmt.Errorf("%q is not one of true, false", value)
	case typ == "int":
		if _, err := strconv.ParseInt(n.Value, 10, 64); err != nil || tag != "!!int" {
			return fmt.Errorf("%q is not a number", value)
		}
	case typ == "quantity":
		if _, ok := quantity(n.Value); !ok {
			return fmt.Errorf("%q is not a quantity; write one such as 100m, 0.5 or 64Mi", value)
		}
	}
	return nil
}

// quantity reads a number with a suffix, as Kubernetes has them.
func quantity(s string) (value float64, ok bool) {
	number := strings.TrimRight(s, "inumkKMGTPE")
	if e := strings.LastIndexAny(s, "eE"); e > 0 && e < len(s)-1 { // 1e3
		number = s
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.Trim(number, "0123456789.+-eE") != "" {
		return 0, false
	}
	switch unit := s[len(number):]; {
	case unit == "":
	case len(unit) == 1 && strings.Contains("mun", unit): // 300m is 0.3: a product would not be
		value /= math.Pow10(3 * (1 + strings.Index("mun", unit)))
	case len(unit) == 1 && strings.Contains("kMGTPE", unit):
		value *= math.Pow10(3 * (1 + strings.Index("kMGTPE", unit)))
	case len(unit) == 2 && unit[1] == 'i' && strings.Contains("KMGTPE", unit[:1]):
		value *= math.Pow(1024, float64(1+strings.Index("KMGTPE", unit[:1])))
	default:
		return 0, false
	}
	return value, true
}

func kindOf(n *yaml.Node) strict.Kind {
	switch n.Kind {
	case yaml.MappingNode:
		return strict.Mapping
	case yaml.SequenceNode:
		return strict.List
	case yaml.ScalarNode, yaml.AliasNode, yaml.DocumentNode:
	}
	return strict.Scalar
}

// oneOf are types of which some fields exclude each other: where a patch gives one,
// the others go.
func oneOf(typ string) []string {
	switch typ {
	case "Probe", "LifecycleHandler":
		return []string{"exec", "httpGet", "tcpSocket", "grpc", "sleep"}
	case "EnvVar":
		return []string{"value", "valueFrom"}
	}
	return nil
}

// merge returns what a strategic merge patch makes of a value of a type: fields of
// the patch go before those of the value, null takes one away, lists with a key are
// merged item by item, and others replaced.
func (s schema) merge(typ string, value, patch *yaml.Node) *yaml.Node {
	typ, key, _ := strings.Cut(typ, "/")
	switch {
	case value == nil || value.Kind != patch.Kind:
		return yamldoc.Copy(patch)
	case patch.Kind == yaml.MappingNode && (s[typ] != nil || strings.HasPrefix(typ, "{}")):
		out := yamldoc.Copy(value)
		exclusive := oneOf(typ)
		for i := 0; i+1 < len(patch.Content); i += 2 {
			name, v := patch.Content[i].Value, patch.Content[i+1]
			if yamldoc.IsNull(v) {
				yamldoc.Delete(out, name)
				continue
			}
			if slices.Contains(exclusive, name) {
				for _, other := range exclusive {
					if other != name {
						yamldoc.Delete(out, other)
					}
				}
			}
			yamldoc.Set(out, name, s.merge(s[typ][name], yamldoc.Get(out, name), v))
		}
		return out
	case patch.Kind == yaml.SequenceNode && key != "":
		out := yamldoc.Copy(value)
		for _, v := range patch.Content {
			i := slices.IndexFunc(out.Content, func(o *yaml.Node) bool {
				return yamldoc.Text(yamldoc.Get(o, key)) != "" && yamldoc.Text(yamldoc.Get(o, key)) == yamldoc.Text(yamldoc.Get(v,
					key))
			})
			if i < 0 {
				out.Content = append(out.Content, yamldoc.Copy(v))
			} else {
				out.Content[i] = s.merge(strings.TrimPrefix(typ, "[]"), out.Content[i], v)
			}
		}
		return out
	}
	return yamldoc.Copy(patch)
}

package strict

import (
	"maps"
	"slices"
)

// UnmarshalYAML is the method of that name for a type that is to be read
// strictly by go.yaml.in/yaml, v2 or v3, which this package does not need.
func UnmarshalYAML(unmarshal func(any) error, target any) error {
	var n yamlNode
	if err := n.UnmarshalYAML(unmarshal); err != nil {
		return err
	}
	_, err := Node(n).Into(target)
	return err
}

// yamlNode is a [Node] that a decoder of YAML fills in. It is not called for
// null, and tells no line.
type yamlNode Node

func (n *yamlNode) UnmarshalYAML(unmarshal func(any) error) error {
	if unmarshal(&n.Text) == nil {
		n.Kind = Scalar
		return nil
	}
	var probe []passOver
	if unmarshal(&probe) == nil {
		n.Kind = List
		var items []yamlNode
		err := unmarshal(&items)
		for _, item := range items {
			n.Items = append(n.Items, Node(item))
		}
		return err
	}
	n.Kind = Mapping
	var fields map[string]yamlNode
	err := unmarshal(&fields)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		n.Fields = append(n.Fields, Field{Name: name, Value: Node(fields[name])})
	}
	return err
}

// passOver is a piece of YAML that is not looked at.
type passOver struct{}

func (*passOver) UnmarshalYAML(func(any) error) error { return nil }

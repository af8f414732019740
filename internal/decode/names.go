package decode

import (
	"reflect"
	"strings"
)

// fieldByName returns the field of a struct by its name in JSON, or the zero
// Value.
func fieldByName(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if jsonName(v.Type().Field(i)) == name {
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// IsPart reports whether the field at path is the one at of, or inside it.
func IsPart(path, of string) bool {
	rest, ok := strings.CutPrefix(path, of)
	return ok && (rest == "" || of == "" || rest[0] == '.' || rest[0] == '[')
}

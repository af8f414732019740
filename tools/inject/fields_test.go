// Package inject_test holds what `mesh-init inject` writes to what Kubernetes and Envoy
// take. It is a module of its own, so that the library's names neither.
package inject_test

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const table = "../../podspec/inject/fields.txt"

// TestFields: the table of fields is that of Kubernetes' own types. With
// MESH_TEST_UPDATE=1 it is written anew.
func TestFields(t *testing.T) {
	all := map[string]string{}
	describe(reflect.TypeFor[core.Container](), all)
	describe(reflect.TypeFor[core.Volume](), all)
	var names []string
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "%s%s\n", name, all[name])
	}
	if os.Getenv("MESH_TEST_UPDATE") == "1" {
		if err := os.WriteFile(table, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(table)
	if err != nil || string(got) != b.String() {
		t.Errorf("%s is not what k8s.io/api says (%v); MESH_TEST_UPDATE=1 writes it", table, err)
	}
}

// describe adds a type, and those of its fields: NAME FIELD:TYPE …; a list is
// []TYPE, with /KEY if patches merge it by a key.
func describe(t reflect.Type, all map[string]string) string {
	switch t {
	case reflect.TypeFor[resource.Quantity]():
		return "quantity"
	case reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[meta.ObjectMeta]():
		return "any"
	case reflect.TypeFor[meta.Time]():
		return "string"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return describe(t.Elem(), all)
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "bool"
	case reflect.Int32, reflect.Int64:
		return "int"
	case reflect.Map:
		return "{}" + describe(t.Elem(), all)
	case reflect.Slice:
		return "[]" + describe(t.Elem(), all)
	case reflect.Struct:
	default:
		panic(t.String())
	}
	if _, there := all[t.Name()]; there {
		return t.Name()
	}
	all[t.Name()] = ""
	var fields string
	var add func(t reflect.Type)
	add = func(t reflect.Type) {
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" && f.Anonymous {
				add(f.Type)
				continue
			}
			of := describe(f.Type, all)
			if key := f.Tag.Get("patchMergeKey"); key != "" && strings.Contains(f.Tag.Get("patchStrategy"), "merge") {
				of += "/" + key
			}
			fields += " " + name + ":" + of
		}
	}
	add(t)
	all[t.Name()] = fields
	return t.Name()
}

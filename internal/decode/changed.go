package decode

import (
	"reflect"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// Changed are the fields in which a configuration differs from an earlier one, as a command line and as a file has them.
func Changed(from, to intercept.Config) ([]Setting, strict.Node) {
	var all []Setting
	differs := map[string]bool{}
	for _, f := range Fields() {
		if text := fieldText(&to, f.Path); text != fieldText(&from, f.Path) {
			all = append(all, Setting{f, text})
			differs[f.Path] = true
		}
	}
	return all, document("", reflect.ValueOf(&to).Elem(), differs)
}

// Items are how a list differs from an earlier one.
type Items struct {
	Field Field
	// Removed are the items of the earlier one alone, and Added those of the other alone, as texts.
	Removed, Added []string
}

// ChangedItems are the lists in which a configuration differs from an earlier one.
func ChangedItems(from, to intercept.Config) (all []Items) {
	for _, f := range Fields() {
		if !f.IsList() {
			continue
		}
		before, after := texts(&from, f.Path), texts(&to, f.Path)
		removed, added := without(before, after), without(after, before)
		if len(removed)+len(added) > 0 {
			all = append(all, Items{f, removed, added})
		}
	}
	return all
}

// texts are the items of a list, each as it is written.
func texts(c *intercept.Config, path string) (all []string) {
	list := fieldOf(c, path)
	for i := range list.Len() {
		all = append(all, strict.Text(list.Slice(i, i+1).Interface()))
	}
	return all
}

// without are the items of a list that another one does not have.
func without(list, other []string) (all []string) {
	is := map[string]bool{}
	for _, item := range other {
		is[item] = true
	}
	for _, item := range list {
		if !is[item] {
			all = append(all, item)
		}
	}
	return all
}

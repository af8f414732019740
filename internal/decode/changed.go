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

package decode

import (
	"reflect"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// A Piece is a part of a list, in its text form.
type Piece struct {
	// Source is where it was given: "--outbound-exclude-cidrs @FILE".
	Source string
	Text   string
	// Lines: it is a file, so what is said of it names the line.
	Lines bool
}

// IsList reports whether the field is a list.
func (f Field) IsList() bool {
	return f.Path != "" && fieldOf(&intercept.Config{}, f.Path).Kind() == reflect.Slice
}

func fieldOf(c *intercept.Config, path string) reflect.Value {
	return strict.Lookup(reflect.ValueOf(c).Elem(), path)
}

// List lays a list over what is there, of pieces that follow each other.
func (l *Layers) List(f Field, pieces []Piece) {
	target := fieldOf(&l.config, f.Path)
	all, failed := reflect.Zero(target.Type()), false
	for i, p := range pieces {
		fresh, set := reflect.New(target.Type()), strict.SetText
		if p.Lines {
			set = strict.SetLines
		}
		err := set(fresh.Interface(), p.Text)
		l.Unreadable(p.Source, f.Path, err)
		if failed = failed || err != nil; i == 0 {
			l.layers = append(l.layers, layer{source: p.Source, path: f.Path})
			all = fresh.Elem()
		} else {
			all = reflect.AppendSlice(all, fresh.Elem())
		}
	}
	if !failed {
		target.Set(all)
	}
}

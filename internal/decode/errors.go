package decode

import (
	"errors"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// unreadable is the error of a value that could not be read. Its text begins
// with the source, and where that sets one field alone it does not name the field.
type unreadable struct {
	field *intercept.FieldError
	alone bool
}

func (e *unreadable) Error() string {
	_, rest := Split(e)
	if e.field.Source == "" {
		return rest.Error()
	}
	return e.field.Source + ": " + rest.Error()
}

func (e *unreadable) Unwrap() error { return e.field }

// Split parts one of a Layers' errors into the source that it blames, which is
// empty where there is none, and what is wrong.
func Split(err error) (source string, rest error) {
	var field *intercept.FieldError
	if !errors.As(err, &field) {
		return "", err
	}
	if e, ok := errors.AsType[*unreadable](err); ok && e.alone {
		if field.Line > 0 {
			return field.Source, &strict.Error{Line: field.Line, Err: field.Err}
		}
		return field.Source, field.Err
	}
	without := *field
	without.Source = ""
	return field.Source, &without
}

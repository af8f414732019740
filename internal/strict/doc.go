// Package strict reads text, JSON, and whatever else comes as a [Node] into Go
// values. What it does not understand is an error: a field that is unknown or
// given twice, a value of the wrong type. Each error names the field and the
// line. The package knows no configuration and needs the standard library
// alone.
package strict

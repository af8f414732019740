// Package decode is the one way in for a configuration: it has the one table of
// the fields, reads each from the text form that flags, environment variables,
// files and annotations share, lays the places where fields can be set over
// each other, and writes a configuration in the same forms.
package decode

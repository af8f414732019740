// Package decode reads the fields of a configuration from text, in the one
// form that flags, environment variables, files and annotations share, and has
// the one table of the fields.
package decode

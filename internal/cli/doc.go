// Package cli is the command line that the programs share: verbs and their
// flags, help and shell completion, exit codes, and the forms of a result.
//
// A program is a table of verbs, and a verb a table of flags. Flags are read by
// pflag; cobra finds verbs, suggests them and completes what is typed.
package cli

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/mesh-intercept/intercept/internal/version"
)

// byHand answers a person, who runs the plugin without CNI_COMMAND. It returns
// the exit code.
func byHand(args []string, stdout, stderr io.Writer) int {
	text := "mesh-cni " + version.Get().String() + "\n"
	out := stdout
	switch strings.Join(args, " ") {
	case "":
		out = stderr // a runtime that forgot the command reads standard output
		fallthrough
	case "--help", "-h", "help":
		text += "A CNI plugin, which a container runtime runs: see docs/cni.md.\n" +
			"It takes no flags; CNI_COMMAND says what to do, and standard input how.\n" +
			"Versions of the CNI specification: " + strings.Join(versions(), ", ") + "\n"
	case "--version", "-v", "version":
	default:
		fmt.Fprintf(stderr, "mesh-cni: %q is left over: a container runtime runs this plugin, without arguments\n", args[0])
		return 2
	}
	if _, err := io.WriteString(out, text); err != nil {
		fmt.Fprintln(stderr, "mesh-cni: the result could not be written:", err)
		return 1
	}
	return 0
}

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/mesh-intercept/intercept/internal/cniconf"
	"github.com/mesh-intercept/intercept/internal/version"
)

// about says to a person what this is.
func about() string {
	return "mesh-cni is a CNI plugin, which a container runtime runs: see docs/cni.md\n" +
		"CNI protocol versions supported: " + strings.Join(cniconf.Versions(), ", ") + "\n"
}

// byHand answers a person, who runs the plugin with arguments and without
// CNI_COMMAND. It returns the exit code.
func byHand(args []string, stdout, stderr io.Writer) int {
	text := ""
	switch strings.Join(args, " ") {
	case "--help", "-h", "help":
		text = about()
	case "--version", "-v", "version":
		text = "mesh-cni " + version.Get().String() + "\n"
	default:
		fmt.Fprintf(stderr, "mesh-cni: %q is left over: a container runtime runs this plugin, without arguments\n", args[0])
		return 2
	}
	if _, err := io.WriteString(stdout, text); err != nil {
		fmt.Fprintln(stderr, "mesh-cni: the result could not be written:", err)
		return 1
	}
	return 0
}

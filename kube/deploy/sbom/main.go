// Command sbom writes the SBOM of a directory of Go programs, in SPDX. See make release.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mesh-intercept/intercept/kube/internal/sbom"
	"github.com/mesh-intercept/intercept/kube/internal/shipped"
)

func main() {
	name := flag.String("name", "intercept", "`NAME` of what has the programs")
	version := flag.String("version", "unknown", "`VERSION` of the programs")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "sbom [flags] DIR\n\nIt prints the SBOM of all programs in DIR.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := write(*name, *version, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func write(name, version string, dirs []string) error {
	if len(dirs) != 1 {
		return errors.New("give one DIR; see -help")
	}
	entries, err := os.ReadDir(dirs[0])
	if err != nil {
		return err
	}
	programs := map[string][]byte{}
	for _, entry := range entries {
		if programs[entry.Name()], err = os.ReadFile(filepath.Join(dirs[0], entry.Name())); err != nil {
			return err
		}
	}
	build, err := shipped.BuildOf(programs)
	if err != nil {
		return err
	}
	text, err := sbom.Document(sbom.Content{Name: name, Version: version, Created: build.Time, Programs: programs})
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(append(text, '\n'))
	return err
}

// Command image writes the container image of Intercept: its static programs,
// and nothing else. See make image.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/kube/internal/image"
)

func main() {
	i := image.Image{Files: map[string][]byte{}, Links: map[string]string{}}
	flag.StringVar(&i.Name, "name", "localhost/intercept:dev", "`NAME` of the image, with its tag")
	flag.StringVar(&i.Architecture, "arch", runtime.GOARCH, "what the programs are built for, as `GOARCH`")
	output := flag.String("o", "bin/intercept-image.tar", "`FILE` to write")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "image [flags] PROGRAM...\n\nThe first program is the entry point.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := write(i, *output, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func write(i image.Image, output string, programs []string) error {
	if len(programs) == 0 {
		return fmt.Errorf("no program; see -help")
	}
	for _, p := range programs {
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		i.Files[filepath.Base(p)] = text
	}
	i.Entrypoint = []string{"/" + filepath.Base(programs[0])}
	// Some meshes' init containers are not root, and have these capabilities all the same.
	const netAdmin, netRaw = 12, 13
	i.Grants = map[string][]int{filepath.Base(programs[0]): {netAdmin, netRaw}}
	for _, path := range peers.Programs() { // by which the entry point is called, too
		i.Links[strings.TrimPrefix(path, "/")] = i.Entrypoint[0]
	}
	b, err := image.Archive(i)
	if err != nil {
		return err
	}
	return os.WriteFile(output, b, 0o644)
}

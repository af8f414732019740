// Command image writes the container image of Intercept: its static programs,
// and nothing else. See make image and make images.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mesh-intercept/intercept/kube/internal/image"
	"github.com/mesh-intercept/intercept/kube/internal/shipped"
)

func main() {
	var o options
	flag.StringVar(&o.name, "name", "localhost/intercept:dev", "`NAME` of the image, with its tag")
	flag.StringVar(&o.version, "version", "unknown", "`VERSION` of the programs")
	flag.BoolVar(&o.index, "index", false, "write an OCI index, for all architectures, and print its digest")
	flag.StringVar(&o.output, "o", "bin/intercept-image.tar", "`FILE` to write")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "image [flags] DIR...\n\nEach DIR has the programs for one architecture.")
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := write(o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

type options struct {
	name, version, output string
	index                 bool
}

func write(o options, dirs []string) error {
	var platforms []image.Platform
	for _, dir := range dirs {
		programs := map[string][]byte{}
		for _, p := range shipped.Programs() {
			text, err := os.ReadFile(filepath.Join(dir, p))
			if err != nil {
				return err
			}
			programs[p] = text
		}
		p, err := shipped.Image(o.name, o.version, programs)
		if err != nil {
			return err
		}
		platforms = append(platforms, p)
	}
	switch {
	case len(platforms) == 0:
		return errors.New("no directory of programs; see -help")
	case o.index:
		return writeIndex(o.output, platforms)
	case len(platforms) > 1:
		return errors.New("an archive has one architecture: give one DIR, or -index")
	}
	b, err := image.Archive(platforms[0].Image)
	if err != nil {
		return err
	}
	return os.WriteFile(o.output, b, 0o644)
}

func writeIndex(output string, platforms []image.Platform) error {
	f, err := os.Create(output)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	digest, err := image.Index(w, platforms[0].Labels, platforms...)
	if err := errors.Join(err, w.Flush(), f.Close()); err != nil {
		return err
	}
	_, err = fmt.Println(digest)
	return err
}

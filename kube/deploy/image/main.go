// Command image writes the container image of Intercept: its static programs,
// and nothing else unless layers of Debian's packages are given. See make image and make images.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/mesh-intercept/intercept/kube/internal/image"
	"github.com/mesh-intercept/intercept/kube/internal/sbom"
	"github.com/mesh-intercept/intercept/kube/internal/shipped"
)

func main() {
	var o options
	flag.StringVar(&o.name, "name", "localhost/intercept:dev", "`NAME` of the image, with its tag")
	flag.StringVar(&o.version, "version", "unknown", "`VERSION` of the programs")
	flag.BoolVar(&o.index, "index", false, "write an OCI index, for all architectures, and print its digest")
	flag.Func("layer", "tar of Debian's packages below the programs, `NAME_ARCH.tar` without _ARCH.tar, beside which "+
		"NAME_ARCH.txt\nlists them; once for each, the lowest first", func(path string) error {
		o.layers = append(o.layers, path)
		return nil
	})
	flag.Func("entrypoint", "`PROGRAM` that starts, instead of the first of ours", func(program string) error {
		o.entrypoint = []string{program}
		return nil
	})
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
	layers, entrypoint    []string
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
		under, err := readLayers(o.layers, programs)
		if err != nil {
			return err
		}
		p, err := shipped.Image(o.name, o.version, programs, under...)
		if err != nil {
			return err
		}
		if o.entrypoint != nil {
			p.Entrypoint = o.entrypoint
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

// readLayers reads layers as tools/release/layers has written them, for the architecture of programs.
func readLayers(paths []string, programs map[string][]byte) ([]shipped.Layer, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	build, err := shipped.BuildOf(programs)
	if err != nil {
		return nil, err
	}
	var all []shipped.Layer
	for _, path := range paths {
		path += "_" + build.Architecture
		files, err := os.ReadFile(path + ".tar")
		if err != nil {
			return nil, err
		}
		list, err := os.ReadFile(path + ".txt")
		if err != nil {
			return nil, err
		}
		l := shipped.Layer{Files: files}
		for line := range strings.Lines(string(list)) {
			words := strings.Fields(line)
			if len(words) != 3 {
				return nil, fmt.Errorf("%s.txt: %q is not a package, its version and its sum", path, line)
			}
			l.Packages = append(l.Packages,
				sbom.Package{Name: words[0], Version: words[1], Sum: words[2], Architecture: build.Architecture})
		}
		all = append(all, l)
	}
	return all, nil
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

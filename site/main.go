// Command site makes the documentation's site of the repository: README.md, docs and examples as pages, and the
// playground. With -serve it shows a site that is made.
package main

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mesh-intercept/intercept/site/answer"
	"github.com/mesh-intercept/intercept/site/internal/pages"
	"github.com/mesh-intercept/intercept/site/internal/playground"
	"github.com/mesh-intercept/intercept/site/internal/serve"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	repository := flag.String("C", ".", "`directory` of the repository")
	out := flag.String("o", "dist/site", "`directory` that the site is written to")
	version := flag.String("version", "", "what the documentation is of")
	ref := flag.String("ref", "main", "the commit or tag that links to files of the repository name")
	base := flag.String("base", "/", "the `path` that the site is served at")
	wasm := flag.String("wasm", "", "the playground's program, as GOOS=js GOARCH=wasm go build makes it")
	wasmExec := flag.String("wasm-exec", "", "wasm_exec.js of the Go that has made it")
	address := flag.String("serve", "", "show the site in -o at this `address`, and make nothing")
	flag.Parse()
	if *address != "" {
		return serve.Listen(*address, *base, *out)
	}
	program, err := programOf(*wasm, *wasmExec)
	if err != nil {
		return err
	}
	files, err := pages.Build(pages.Options{
		Repository: os.DirFS(*repository),
		Assets:     os.DirFS(filepath.Join(*repository, "site", "assets")),
		Version:    *version,
		URL:        "https://github.com/mesh-intercept/intercept",
		Ref:        *ref,
		Base:       *base,
		Program:    program,
		Finish:     func(files map[string][]byte) error { return playground.Finish(files, answer.Ask) },
	})
	if err != nil {
		return err
	}
	return write(*out, files)
}

// programOf is what is built of the playground, by its place in the site. The smaller copy is for hosts that do not
// compress.
func programOf(wasm, wasmExec string) (map[string][]byte, error) {
	if wasm == "" {
		return nil, nil
	}
	program, err := os.ReadFile(wasm)
	if err != nil {
		return nil, err
	}
	glue, err := os.ReadFile(wasmExec)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return map[string][]byte{
		"playground/intercept.wasm":    program,
		"playground/intercept.wasm.gz": packed.Bytes(),
		"playground/wasm_exec.js":      glue,
	}, nil
}

func write(out string, files map[string][]byte) error {
	for _, name := range pages.Paths(files) {
		to := filepath.Join(out, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, files[name], 0o644); err != nil {
			return err
		}
	}
	return nil
}

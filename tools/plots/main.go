// Command plots makes of benchmarks' figures what docs/performance.md shows: tables in the page, and pictures beside
// it. The same figures make the same bytes.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

func main() {
	docs := flag.String("docs", "docs", "`directory` with performance.md, and with img/bench.txt and img/peers.txt, "+
		"which are figures in the form of go test -bench")
	flag.Parse()
	if err := run(*docs); err != nil {
		fmt.Fprintln(os.Stderr, "plots:", err)
		os.Exit(1)
	}
}

func run(docs string) error {
	files, err := outputs(docs)
	if err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if err := os.WriteFile(path, files[path], 0o644); err != nil {
			return err
		}
	}
	return nil
}

// outputs are the files that the figures make, by their paths.
func outputs(docs string) (map[string][]byte, error) {
	ours, err := readFigures(filepath.Join(docs, "img", "bench.txt"))
	if err != nil {
		return nil, err
	}
	peers, err := readFigures(filepath.Join(docs, "img", "peers.txt"))
	if err != nil {
		return nil, err
	}
	page := filepath.Join(docs, "performance.md")
	text, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for name, table := range map[string]func() (string, error){
		"machine": ours.machine,
		"figures": func() (string, error) { return table(ours) },
		"packets": func() (string, error) { return packetTable(ours) },
		"pods":    func() (string, error) { return podTable(ours) },
		"peers":   func() (string, error) { return peerTable(peers) },
	} {
		content, err := table()
		if err != nil {
			return nil, err
		}
		if text, err = fill(text, name, content); err != nil {
			return nil, fmt.Errorf("%s: %w", page, err)
		}
	}
	files[page] = text
	for name, draw := range map[string]func(ours, peers figures) ([]byte, error){
		"apply.svg": applyPlot, "connection.svg": connectionPlot, "peers.svg": peerPlot,
	} {
		if files[filepath.Join(docs, "img", name)], err = draw(ours, peers); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return files, nil
}

// fill replaces what stands between <!-- name --> and <!-- /name -->.
func fill(text []byte, name, content string) ([]byte, error) {
	begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->\n"
	before, rest, found := bytes.Cut(text, []byte(begin))
	_, after, ended := bytes.Cut(rest, []byte(end))
	if !found || !ended {
		return nil, fmt.Errorf("it has no %q with %q after it", begin, end)
	}
	return slices.Concat(before, []byte(begin+content+end), after), nil
}

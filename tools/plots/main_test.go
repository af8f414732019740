package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestWritten: the page and the pictures are what their figures make.
func TestWritten(t *testing.T) {
	files, err := outputs(filepath.Join("..", "..", "docs"))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range files {
		got, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the figures make: make plots writes it", path)
		}
	}
}

// TestFigures: names are without the number of processors, of several runs the median counts, and what is missing is
// named.
func TestFigures(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bench.txt")
	const text = "cpu: Some\nBenchmarkA/n=5-2 1 3 ms 9 x-b\nBenchmarkA/n=5-2 1 1 ms\nBenchmarkA/n=5-2 1 2 ms\nok\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := readFigures(path)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := f.get("A/n=5 ms"); err != nil || v != 2 {
		t.Errorf("%v, %v", v, err)
	}
	if s, err := f.span("%.1f", "A/n=5 ms", "A/n=5 x-b"); err != nil || s != "2.0 to 9.0" {
		t.Errorf("%q, %v", s, err)
	}
	var missing *missingError
	if _, err := f.get("A/n=6 ms"); !errors.As(err, &missing) || missing.key != "A/n=6 ms" {
		t.Errorf("%v", err)
	}
	if _, err := f.machine(); !errors.As(err, &missing) || missing.key != "processors" {
		t.Errorf("%v", err)
	}
}

// TestFill: what stands between marks is replaced, and a page without them is an error.
func TestFill(t *testing.T) {
	got, err := fill([]byte("a\n<!-- x -->\nold\n<!-- /x -->\nb\n"), "x", "new\n")
	if want := "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := fill([]byte("<!-- /x -->\n<!-- x -->\n"), "x", ""); err == nil {
		t.Error("marks in the wrong order are taken")
	}
}

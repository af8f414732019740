package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPictures keeps the pictures in docs/ what render makes of the flags that stand before them. With
// MESH_TEST_UPDATE=1 it writes them.
func TestPictures(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	picture := regexp.MustCompile(`(?s)<!-- picture: mesh-init (render [^\n]*) -->\n!\[[^]]*\]\(([^)]*)\)`)
	found := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range picture.FindAllStringSubmatch(string(text), -1) {
			found++
			r := invoke(t, "", nil, strings.Fields(m[1])...)
			if r.code != 0 {
				t.Fatalf("%s: mesh-init %s: %s", page, m[1], r.stderr)
			}
			file := filepath.Join("../../docs", m[2])
			if os.Getenv("MESH_TEST_UPDATE") == "1" {
				if err := os.WriteFile(file, []byte(r.out), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if shown, err := os.ReadFile(file); err != nil || string(shown) != r.out {
				t.Errorf("%s is not what mesh-init %s draws (%v): run MESH_TEST_UPDATE=1 go test ./cmd/mesh-init -run Pictures",
					file, m[1], err)
			}
		}
	}
	if found == 0 {
		t.Error("no page has a picture")
	}
}

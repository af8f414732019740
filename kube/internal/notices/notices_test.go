package notices

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// programs are those that ship, by the directory of their module.
func programs() map[string][]string {
	return map[string][]string{
		"../../..": {"./cmd/mesh-init", "./cmd/mesh-cni"},
		"../..":    {"./cmd/mesh-cni-agent", "./cmd/mesh-probe", "./cmd/mesh-injector", "./cmd/kubectl-intercept"},
	}
}

// TestCurrent holds the text to what the programs are built from. With
// MESH_TEST_UPDATE=1 it writes it instead.
func TestCurrent(t *testing.T) {
	of := map[string]map[string]bool{} // the texts of each module
	for dir, list := range programs() {
		for _, system := range []string{"linux", "darwin", "windows"} { // kubectl-intercept runs on all
			packages(t, dir, system, list, of)
		}
	}
	want := document(t, of)
	if os.Getenv("MESH_TEST_UPDATE") == "1" {
		if err := os.WriteFile("third_party.txt", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(Text, want); diff != "" {
		t.Errorf("it differs (-): run MESH_TEST_UPDATE=1 go test ./kube/internal/notices\n%s", diff)
	}
	if len(of) < 50 {
		t.Errorf("%d modules", len(of))
	}
	for module, want := range map[string]string{
		"std": "BSD-3-Clause", "github.com/spf13/cobra": "Apache-2.0", "go.yaml.in/yaml/v3": "Apache-2.0 AND MIT", "x": "",
	} {
		if got := License(module); got != want {
			t.Errorf("%s: %q, want %q", module, got, want)
		}
	}
}

// packages adds the texts that lie in the directories of packages, up to those of their modules.
func packages(t *testing.T, dir, system string, programs []string, of map[string]map[string]bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps", "-tags=grpcnotrace",
		"-json=Dir,Standard,Module"}, programs...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOOS="+system, "GOARCH=amd64")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	root := filepath.Join(strings.TrimSpace(goroot(t)), "LICENSE")
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			Dir      string
			Standard bool
			Module   *struct {
				Path, Dir string
				Main      bool
			}
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		switch {
		case p.Standard:
			add(t, of, "std", root)
		case p.Module == nil:
			t.Fatalf("%s is of no module", p.Dir)
		case strings.HasPrefix(p.Module.Path, "github.com/mesh-intercept/"):
		default:
			for at := p.Dir; ; at = filepath.Dir(at) {
				files, err := filepath.Glob(filepath.Join(at, "*"))
				if err != nil {
					t.Fatal(err)
				}
				for _, file := range files {
					if named().MatchString(filepath.Base(file)) {
						add(t, of, p.Module.Path, file)
					}
				}
				if at == p.Module.Dir {
					break
				}
			}
			if len(of[p.Module.Path]) == 0 {
				t.Errorf("%s has no licence", p.Module.Path)
			}
		}
	}
}

func goroot(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// named matches the names that files with licences and notices have.
func named() *regexp.Regexp {
	return regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying|notice)([-.](md|txt|mit|apache|libyaml|bsd))?$`)
}

func add(t *testing.T, of map[string]map[string]bool, module, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if of[module] == nil {
		of[module] = map[string]bool{}
	}
	text := strings.TrimSpace(strings.ReplaceAll(string(b), "\r\n", "\n"))
	of[module][regexp.MustCompile(`[ \t]+\n`).ReplaceAllString(text, "\n")] = true
}

// document lists the modules, and has each text once.
func document(t *testing.T, of map[string]map[string]bool) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("The programs of Intercept are built from these Go modules. Each text below names the modules that it is for.\n\n" +
		begin)
	modules := slices.Sorted(maps.Keys(of))
	var texts []string // in the order of the modules
	by := map[string][]string{}
	for _, module := range modules {
		var kinds []string
		for _, text := range slices.Sorted(maps.Keys(of[module])) {
			kinds = append(kinds, kindsOf(text)...)
			if by[text] == nil {
				texts = append(texts, text)
			}
			by[text] = append(by[text], module)
		}
		slices.Sort(kinds)
		kinds = slices.Compact(kinds)
		if len(kinds) == 0 {
			t.Errorf("%s has a licence that this test does not know", module)
		}
		fmt.Fprintf(&b, "%s %s\n", module, strings.Join(kinds, " AND "))
	}
	b.WriteString(end)
	for _, text := range texts {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s\n", strings.Repeat("-", 100), strings.Join(by[text], "\n"), text)
	}
	return b.String()
}

// kindsOf returns the licences whose words a text has: none for a notice.
func kindsOf(text string) (kinds []string) {
	text = strings.Join(strings.Fields(text), " ")
	has := func(words string) bool { return strings.Contains(text, words) }
	if has("Apache License Version 2.0, January 2004") || has("http://www.apache.org/licenses/LICENSE-2.0") {
		kinds = append(kinds, "Apache-2.0")
	}
	if has("Permission is hereby granted, free of charge, to any person obtaining a copy") {
		kinds = append(kinds, "MIT")
	}
	if has("Redistribution and use in source and binary forms") {
		if regexp.MustCompile(`(?i)neither the name|may not be used to endorse|names? of .{1,60} may be used to endorse`).MatchString(text) {
			kinds = append(kinds, "BSD-3-Clause")
		} else {
			kinds = append(kinds, "BSD-2-Clause")
		}
	}
	if regexp.MustCompile(`Permission to use, copy, modify, (and/or|and) distribute this software`).MatchString(text) {
		kinds = append(kinds, "ISC")
	}
	if has("Mozilla Public License, version 2.0") || has("Mozilla Public License Version 2.0") {
		kinds = append(kinds, "MPL-2.0")
	}
	return kinds
}

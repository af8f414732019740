package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/podspec/inject"
)

func lintVerb() verb {
	return verb{cli.Verb{
		Name: "lint", Does: "say what will go wrong with the pods in manifests",
		Also: []string{"analyze", "analyse", "vet", "precheck"},
		More: "It reads Pods and all that makes them, and Services, in files or in all .yaml, .yml and .json\n" +
			"files of a directory. It looks at pods that ask for interception by annotations, and says what is\n" +
			"certain to go wrong, one on each line: file, object, field, what happens, and what to do. Nothing\n" +
			"is asked of a cluster.",
		Flags: manifestFlags,
		Examples: `
  Will the app's pods work with a proxy?
    mesh-init lint -f manifests/
`}, job.lintManifests}
}

func (j job) lintManifests() error {
	found, pods, err := inject.Lint(j.manifests)
	if err != nil {
		return cli.UsageError{Err: err}
	}
	if pods == 0 {
		j.log.WarnContext(j.ctx, "no pod in these manifests asks for interception by an annotation; the arguments "+
			"of init containers are not read: give those to mesh-init explain")
	}
	if found == nil {
		found = []inject.Finding{}
	}
	err = j.print(struct {
		Pods     int              `json:"pods"`
		Findings []inject.Finding `json:"findings"`
	}{pods, found}, func() string {
		var text strings.Builder
		for _, f := range found {
			text.WriteString(f.String() + "\n")
		}
		if len(found) == 0 && pods > 0 {
			text.WriteString(j.style.Good("ok") + ": nothing was found in " + strict.Count(pods, "pod") + "\n")
		}
		return text.String()
	})
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("%w: %s", errFindings, strict.Count(len(found), "finding"))
	}
	return err
}

// manifestFiles are the files that a path stands for: itself, or the manifests in a directory and those below it.
func manifestFiles(path string) (names []string, err error) {
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return []string{path}, nil //nolint:nilerr // that it cannot be read is said by who reads it
	}
	err = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			names = append(names, name)
		}
		return err
	})
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("%s: there is no .yaml, .yml or .json file in it", path)
	}
	return names, err
}

// manifestsAt reads files, standard input, or the manifests in directories and those below them.
func manifestsAt(paths []string, stdin io.Reader) (all []inject.Source, err error) {
	if len(paths) == 0 {
		return nil, errors.New("missing: write -f FILE, -f DIRECTORY, or -f - for standard input")
	}
	var names []string
	var errs []error
	for _, path := range paths {
		files, err := manifestFiles(path)
		errs = append(errs, err)
		names = append(names, files...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return readManifests(names, stdin)
}

// readManifests reads files, or standard input.
func readManifests(names []string, stdin io.Reader) (all []inject.Source, err error) {
	var errs []error
	left := int64(maxManifests)
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			errs = append(errs, fmt.Errorf("%q is given twice: give it once", name))
			continue
		}
		text, err := yamldoc.ReadWithin(name, stdin, left)
		errs = append(errs, err)
		left -= int64(len(text))
		if name == "-" {
			name = "standard input"
		}
		all = append(all, inject.Source{Name: name, Text: text})
	}
	return all, errors.Join(errs...)
}

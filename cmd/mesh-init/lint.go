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
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/podspec/inject"
)

func lintVerb() verb {
	return verb{cli.Verb{
		Name: "lint", Does: "say what will go wrong with the pods in manifests",
		Also: []string{"analyze", "analyse", "vet", "precheck"},
		More: "It reads Pods and all that makes them, and Services, in a file or in all .yaml, .yml and .json\n" +
			"files of a directory. It looks at pods that ask for interception by annotations, and says what is\n" +
			"certain to go wrong, one on each line: file, object, field, what happens, and what to do. Nothing\n" +
			"is asked of a cluster.",
		Flags: func() []cli.Flag {
			flags := once(row(filenameFlag, "FILE", groupInject, "", "manifests, YAML or JSON; - for standard input"))
			flags[0].Short = "f"
			return flags
		},
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
		j.log.WarnContext(j.ctx, "no pod in these manifests asks for interception")
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
			text.WriteString(j.style.Good("ok") + fmt.Sprintf(": nothing was found in %d pods\n", pods))
		}
		return text.String()
	})
	if err == nil && len(found) > 0 {
		err = errFindings
	}
	return err
}

// manifestsAt reads a file, standard input, or the manifests in a directory and those below it.
func manifestsAt(path string, stdin io.Reader) (all []inject.Source, err error) {
	if path == "" {
		return nil, errors.New("missing: write -f FILE, -f DIRECTORY, or -f - for standard input")
	}
	var names []string
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
				names = append(names, name)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("%s: there is no .yaml, .yml or .json file in it", path)
		}
	} else {
		names = []string{path}
	}
	left := int64(maxManifests)
	var errs []error
	for _, name := range names {
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

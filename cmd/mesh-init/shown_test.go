package main

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/testing/quickstart"
)

// TestShownFlags: wherever a page shows a command line of mesh-init, in a block or within a sentence, there are such a
// verb and such flags.
func TestShownFlags(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	span := regexp.MustCompile("`([^`\n]+(?:\n[^`\n]+)?)`")
	command := regexp.MustCompile(`(?m)(?:^|[\s|(])(?:\./)?mesh-init ([^|&;#)\n]*)`)
	found := 0
	for _, page := range append(pages, "../../README.md", "../../CONTRIBUTING.md", "../../SECURITY.md") {
		p := quickstart.Read(t, page)
		text := ""
		for _, b := range p.Blocks {
			if b.Language == "sh" || b.Language == "console" {
				text += strings.ReplaceAll(b.Body, "\\\n", "") + "\n"
			}
		}
		for _, m := range span.FindAllStringSubmatch(strings.Join(p.Prose, "\n"), -1) {
			text += strings.ReplaceAll(m[1], "\n", " ") + "\n"
		}
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			if wrong := notThere(arguments(m[1])); wrong != "" {
				t.Errorf("%s: mesh-init %s: %s", page, m[1], wrong)
			}
			found++
		}
	}
	if found < 150 {
		t.Errorf("only %d command lines were found", found)
	}
}

// notThere says what there is not in a command line. Those of other meshes' programs are theirs.
func notThere(args []string) string {
	all, own := program{}.commandLine(nil).Verbs, verbs()
	if len(args) == 0 || strings.HasPrefix(args[0], "…") || slices.Contains([]string{"VERB", "help", "completion"}, args[0]) {
		return ""
	}
	if regexp.MustCompile(`^v\d`).MatchString(args[0]) { // a version, in what status says
		return ""
	}
	var flags []cli.Flag
	switch i := slices.IndexFunc(all, func(v cli.Verb) bool { return v.Name == args[0] }); {
	case strings.HasPrefix(args[0], "-"):
		flags = flagsOf(applyVerb())
	case i < 0:
		return "there is no verb " + args[0]
	case all[i].Raw != nil:
		return ""
	default:
		flags = flagsOf(own[slices.IndexFunc(own, func(v verb) bool { return v.Name == args[0] })])
	}
	for _, arg := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case !strings.HasPrefix(arg, "-") || arg == "-" || name == "help" || name == "h" || strings.ContainsAny(name, "$…"):
		case strings.HasPrefix(arg, "--"):
			if _, ok := cli.Find(flags, name); !ok {
				return "there is no flag --" + name
			}
		case !slices.ContainsFunc(flags, func(f cli.Flag) bool { return f.Short == name }):
			return "there is no flag -" + name
		}
	}
	return ""
}

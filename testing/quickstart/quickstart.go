// Package quickstart reads the files and the commands that a page such as
// docs/quickstart.md shows, so that tests can use them as they stand there.
package quickstart

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Page is what a page shows.
type Page struct {
	path string
	// Files are the blocks whose first line is a comment with a file's name.
	Files map[string]string
	// Commands are those of the blocks in the language console, in order.
	Commands []Command
}

// Command is a line after a prompt, and what the page shows under it.
type Command struct{ Line, Output string }

var (
	block = regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$")
	name  = regexp.MustCompile(`^# ([\w.]+)\n`)
)

// Read reads the page at a path.
func Read(t testing.TB, path string) Page {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := Page{path: path, Files: map[string]string{}}
	for _, m := range block.FindAllStringSubmatch(string(text), -1) {
		language, body := m[1], m[2]
		if named := name.FindStringSubmatch(body); named != nil {
			page.Files[named[1]] = body
		}
		if language == "console" {
			page.Commands = append(page.Commands, commands(body)...)
		}
	}
	return page
}

func commands(body string) []Command {
	var all []Command
	for line := range strings.Lines(body) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			all = append(all, Command{Line: strings.TrimSpace(command)})
		} else if len(all) > 0 {
			all[len(all)-1].Output += line
		}
	}
	return all
}

// File returns one of the files.
func (p Page) File(t testing.TB, name string) string {
	t.Helper()
	text, ok := p.Files[name]
	if !ok {
		t.Fatalf("%s shows no file %s", p.path, name)
	}
	return text
}

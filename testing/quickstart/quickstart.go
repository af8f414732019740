// Package quickstart reads the files and the commands that a page such as
// docs/quickstart.md shows, so that tests can use them as they stand there, and
// types the commands.
package quickstart

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
	// Logs are read by these.
	reads = regexp.MustCompile(`^(cat|grep|tail|head|sed|cut|sort) .*\.log\b`)
	// Ports that the kernel chooses.
	ephemeral = regexp.MustCompile(`:(3[2-9]|4\d|5\d|6\d)\d{3}\b`)
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

// readsLog reports whether a command shows what a program has logged.
func (c Command) readsLog() bool { return c.Output != "" && reads.MatchString(c.Line) }

// Compare compares what the commands have printed with what the page shows, but for ports that the kernel chose. With
// MESH_TEST_UPDATE=1 it writes that into the page instead, where it differs.
func (p Page) Compare(t testing.TB, printed []string) {
	t.Helper()
	if os.Getenv("MESH_TEST_UPDATE") == "1" {
		p.update(t, printed)
		return
	}
	for i, c := range p.Commands {
		if diff := cmp.Diff(ports(c.Output), ports(printed[i])); diff != "" {
			t.Errorf("%s: the page shows (-), and it printed (+):\n%s", c.Line, diff)
		}
	}
}

func (p Page) update(t testing.TB, printed []string) {
	t.Helper()
	b, err := os.ReadFile(p.path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest := "", string(b) // of what is typed
	for i, c := range p.Commands {
		prompt := "$ " + c.Line + "\n"
		text, after, _ := strings.Cut(rest, prompt)
		before, rest = before+text+prompt, after
		if ports(c.Output) != ports(printed[i]) {
			before, rest = before+printed[i], strings.TrimPrefix(rest, c.Output)
		}
	}
	if err := os.WriteFile(p.path, []byte(before+rest), 0o644); err != nil {
		t.Fatal(err)
	}
}

// ports makes all ports that the kernel chooses the same.
func ports(s string) string { return ephemeral.ReplaceAllString(s, ":PORT") }

// Package quickstart reads what a page such as docs/quickstart.md shows: files, commands, headings and links, so that
// tests can use them as they stand there, and types the commands.
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
	// Blocks are all blocks of code between fences.
	Blocks []Block
	// Headings are the texts of all headings, with what stands for their level.
	Headings []string
	// Prose is all else, with an empty line for each that is not prose.
	Prose []string
}

// Command is a line after a prompt, and what the page shows under it.
type Command struct {
	Line, Output string
	// Section is the heading of the second level above it.
	Section string
}

// Block is a block of code.
type Block struct {
	Language, Body string
	// Line is that of its first fence.
	Line int
	// Section is the heading of the second level above it.
	Section string
}

// First is the first line that is no comment and no prompt.
func (b Block) First() string {
	for line := range strings.Lines(b.Body) {
		if line = strings.TrimSpace(strings.TrimPrefix(line, "$ ")); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return ""
}

var (
	fence = regexp.MustCompile("^( *)(```+)([^`]*)$")
	// A file's name has a dot, or ends as Containerfile does.
	name = regexp.MustCompile(`^(?:#|//) ([\w-]+\.[\w.]+|[A-Z]\w+file)\n`)
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
	var section, indent, closing string
	var open *Block
	for i, line := range strings.Split(string(text), "\n") {
		prose := ""
		m := fence.FindStringSubmatch(line)
		switch {
		case open != nil && strings.TrimSpace(line) == closing:
			page.add(*open)
			open = nil
		case open != nil:
			open.Body += strings.TrimPrefix(line, indent) + "\n"
		case m != nil:
			indent, closing = m[1], m[2]
			open = &Block{Language: strings.TrimSpace(m[3]), Line: i + 1, Section: section}
		default:
			prose = line
			if heading := strings.TrimLeft(line, "#"); len(heading) < len(line) && strings.HasPrefix(heading, " ") {
				page.Headings = append(page.Headings, line)
				if title, ok := strings.CutPrefix(line, "## "); ok {
					section = title
				}
			}
		}
		page.Prose = append(page.Prose, prose)
	}
	if open != nil {
		t.Fatalf("%s, line %d: the block does not end", path, open.Line)
	}
	return page
}

func (p *Page) add(b Block) {
	p.Blocks = append(p.Blocks, b)
	if named := name.FindStringSubmatch(b.Body); named != nil {
		p.Files[named[1]] = b.Body
	}
	if b.Language != "console" {
		return
	}
	for line := range strings.Lines(b.Body) {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			p.Commands = append(p.Commands, Command{Line: strings.TrimSpace(command), Section: b.Section})
		} else if n := len(p.Commands); n > 0 {
			p.Commands[n-1].Output += line
		}
	}
}

// Under is the page with the commands under one heading of the second level alone.
func (p Page) Under(t testing.TB, section string) Page {
	t.Helper()
	var commands []Command
	for _, c := range p.Commands {
		if c.Section == section {
			commands = append(commands, c)
		}
	}
	if commands == nil {
		t.Fatalf("%s has no commands under %q", p.path, section)
	}
	p.Commands = commands
	return p
}

// Script returns the block in the language sh, under a heading of the second level, that begins with a line.
func (p Page) Script(t testing.TB, section, first string) string {
	t.Helper()
	for _, b := range p.Blocks {
		if b.Language == "sh" && b.Section == section && b.First() == first {
			return b.Body
		}
	}
	t.Fatalf("%s runs no %q under %q", p.path, first, section)
	return ""
}

// IsFile reports whether the block is a file that commands find.
func (b Block) IsFile() bool { return name.MatchString(b.Body) }

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

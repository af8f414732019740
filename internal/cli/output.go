package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"os"

	"golang.org/x/term"

	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
)

// Format is the form of a result: for people, or for programs.
type Format string

// The forms.
const (
	Text Format = "text"
	JSON Format = "json"
	YAML Format = "yaml"
)

// outputName is the name of the flag for the form of a result.
const outputName = "output"

// OutputFlag is the flag for the form of a result. old are its former names.
func OutputFlag(old ...OldName) Flag {
	return Flag{Short: "o", Old: old, Field: decode.Field{
		Name: outputName, Form: "text|json|yaml", Group: GroupOutput, Initial: string(Text),
		Usage: "form of the result on standard output",
	}}
}

// Write writes a result: as v says it in JSON, or as text does.
func (f Format) Write(w io.Writer, v any, text func() string) error {
	if f == Text || f == "" {
		_, err := io.WriteString(w, text())
		return err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if f == JSON {
		e.SetIndent("", "  ")
	}
	if err := e.Encode(v); err != nil {
		return err
	}
	if f == JSON {
		_, err := w.Write(strict.EscapeJSON(b.Bytes()))
		return err
	}
	node, err := strict.ParseJSON(b.Bytes())
	if err != nil {
		return err
	}
	out, err := yamldoc.Format(node)
	if err != nil {
		return err
	}
	_, err = w.Write(out)
	return err
}

// WriteLine writes one of many results: JSON on a line of its own, YAML as a document of its own.
func (f Format) WriteLine(w io.Writer, v any) error {
	if f == YAML {
		if _, err := io.WriteString(w, "---\n"); err != nil {
			return err
		}
		return f.Write(w, v, nil)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(strict.EscapeJSON(b.Bytes()))
	return err
}

// Style marks words for a terminal. The zero Style marks nothing.
type Style struct{ on bool }

// StyleFor returns how to mark words in w: not at all unless it is a terminal
// that can, and nobody has set NO_COLOR (https://no-color.org).
func StyleFor(w io.Writer) Style {
	f, ok := w.(*os.File)
	return Style{ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))}
}

// Good marks what is as it should be.
func (s Style) Good(text string) string { return s.mark("32", text) }

// Bad marks what is not.
func (s Style) Bad(text string) string { return s.mark("31", text) }

// Strong marks what to read first.
func (s Style) Strong(text string) string { return s.mark("1", text) }

// Clear begins the screen of a terminal anew (ECMA-48: CUP and ED). Elsewhere it is nothing.
func (s Style) Clear() string {
	if !s.on {
		return ""
	}
	return "\x1b[H\x1b[2J"
}

func (s Style) mark(code, text string) string {
	if !s.on {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

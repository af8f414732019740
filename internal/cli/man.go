package cli

import (
	"fmt"
	"strings"

	"github.com/mesh-intercept/intercept/internal/decode"
)

// Man returns the program's manual page for a section, in man(7), from the table
// that the help is of. Packages have it; the program itself does not.
func (p Program) Man(section int) string {
	m := manual{}
	m.line(".TH", strings.ToUpper(p.Name), fmt.Sprint(section), "", "Intercept", "")
	// Flags are searched for: none is taken apart at the end of a line.
	m.line(".nh")
	m.line(".ad", "l")
	m.line(".SH", "NAME")
	m.text(p.Name + " - " + p.Does)
	m.line(".SH", "SYNOPSIS")
	m.line(".B", p.Name)
	m.text("VERB [flags]")
	m.line(".SH", "VERBS")
	for _, v := range p.all() {
		m.line(".TP")
		m.line(".B", v.Name)
		does := v.Does
		if v.InPlaceOf {
			does += ": in place of that program, with its flags"
		}
		m.text(does + ".")
		for paragraph := range strings.SplitSeq(v.More, "\n\n") {
			if paragraph != "" {
				m.line(".IP")
				m.text(paragraph)
			}
		}
		if flags := p.flagsOf(v); len(flags) > 0 {
			var names []string
			for _, f := range flags {
				names = append(names, "--"+f.Name)
			}
			m.line(".IP")
			m.text("It takes " + strings.Join(names, ", ") + ".")
		}
	}
	m.line(".SH", "FLAGS")
	m.flags(p.AllFlags())
	m.line(".SH", "NOTES")
	m.plain(p.Notes)
	m.line(".SH", "EXIT STATUS")
	for _, e := range p.Exits {
		m.line(".TP")
		m.line(".B", fmt.Sprint(e.Code))
		m.text(e.Meaning)
	}
	m.line(".SH", "EXAMPLES")
	for _, v := range p.all() {
		m.plain(v.Examples)
	}
	return m.String()
}

// manual writes man(7).
type manual struct{ strings.Builder }

// line writes a request with its arguments.
func (m *manual) line(request string, arguments ...string) {
	m.WriteString(request)
	for _, a := range arguments {
		m.WriteString(` "` + strings.ReplaceAll(roff(a), `"`, `\(dq`) + `"`)
	}
	m.WriteString("\n")
}

// text writes lines that are filled.
func (m *manual) text(text string) {
	for line := range strings.Lines(text) {
		line = roff(strings.TrimSpace(line))
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			line = `\&` + line // it would be a request
		}
		m.WriteString(line + "\n")
	}
}

// plain writes lines as they stand.
func (m *manual) plain(text string) {
	if strings.TrimSpace(text) == "" {
		return
	}
	m.line(".nf")
	for line := range strings.SplitSeq(strings.Trim(text, "\n"), "\n") {
		m.WriteString(`\&` + roff(line) + "\n")
	}
	m.line(".fi")
	m.line(".PP")
}

func (m *manual) flags(all []Flag) {
	var heading decode.Group
	for _, f := range all {
		if f.Group != heading {
			heading = f.Group
			m.line(".SS", string(heading))
		}
		name := `\fB--` + f.Name + `\fR`
		if f.Short != "" {
			name = `\fB-` + f.Short + `\fR, ` + name
		}
		if !f.IsSwitch() {
			name += ` \fI` + f.Form + `\fR`
		}
		m.line(".TP")
		m.WriteString(strings.ReplaceAll(name, "-", `\-`) + "\n")
		m.text(f.Usage + f.Again)
		if f.Initial != "" && !f.IsSwitch() {
			m.text("(default " + f.Initial + ")")
		}
	}
}

// roff writes characters that roff would read as its own.
func roff(text string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "'", `\(aq`, "^", `\(ha`, "~", `\(ti`, "→", `\(->`).Replace(text)
}

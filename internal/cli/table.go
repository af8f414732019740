package cli

import (
	"os"
	"slices"
	"strings"

	"golang.org/x/term"
)

// Width is how many columns a line of text may take, where no terminal says otherwise.
const Width = 100

// columns is that of the terminal to which the program writes: see [Fit].
var columns = Width

// Fit has lines as wide as the terminal that a file is, within reason. Of others they keep [Width]. A program calls it
// once, before it lays out anything.
func Fit(f *os.File) {
	const least, most = 40, 160
	if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
		columns = min(max(n, least), most)
	}
}

// widthOf is how many columns a text takes. What marks words in a terminal (see [Style]) takes none.
func widthOf(text string) (n int) {
	marked := false
	for _, r := range text {
		switch {
		case r == '\x1b':
			marked = true
		case !marked:
			n++
		case r == 'm':
			marked = false
		}
	}
	return n
}

// A Row is a line of a table. A row of one cell is a heading, which does not
// count for the columns' width.
type Row []string

// Table lays rows out in columns. Where a line would be wider than Width, the
// widest columns are broken between words.
func Table(rows []Row) string {
	var widths []int
	total := 0
	for _, r := range rows {
		for i, cell := range r {
			if i == len(widths) {
				widths = append(widths, 0)
				total += 2
			}
			if n := min(columns, widthOf(cell)); len(r) > 1 && n > widths[i] {
				total += n - widths[i]
				widths[i] = n
			}
		}
	}
	for ; total-2 > columns; total-- {
		widths[slices.Index(widths, slices.Max(widths))]--
	}
	var b strings.Builder
	for _, r := range rows {
		if len(r) == 1 {
			b.WriteString(Hang("", 0, r[0]))
			continue
		}
		cells := make([][]string, len(r))
		height := 1
		for i, cell := range r {
			cells[i] = Wrap(cell, widths[i])
			height = max(height, len(cells[i]))
		}
		for k := range height {
			var line strings.Builder
			for i, lines := range cells {
				part := ""
				if k < len(lines) {
					part = lines[k]
				}
				line.WriteString(part + strings.Repeat(" ", max(0, widths[i]-widthOf(part))+2))
			}
			b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
		}
	}
	return b.String()
}

// Hang writes text after a label of indent columns, and the lines that it is
// broken into below its first.
func Hang(label string, indent int, text string) string {
	var b strings.Builder
	for _, line := range Wrap(text, columns-indent) {
		b.WriteString(strings.TrimRight(label+line, " ") + "\n")
		label = strings.Repeat(" ", indent)
	}
	return b.String()
}

// Wrap breaks text between words, and after commas, into lines of at most width
// columns. A longer word has a line of its own. There is at least one line.
func Wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		for _, part := range parts(word, width) {
			glue := " "
			if line == "" || strings.HasSuffix(line, ",") && part.joined {
				glue = ""
			}
			if line != "" && widthOf(line+glue+part.text) > width {
				lines = append(lines, line)
				line, glue = "", ""
			}
			line += glue + part.text
		}
	}
	return append(lines, line)
}

type part struct {
	text   string
	joined bool // without a space to what is before it
}

// parts breaks a word that does not fit a line after its commas.
func parts(word string, width int) []part {
	if widthOf(word) <= width {
		return []part{{word, false}}
	}
	var all []part
	for item := range strings.SplitAfterSeq(word, ",") {
		all = append(all, part{item, len(all) > 0})
	}
	return all
}

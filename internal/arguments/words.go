package arguments

import (
	"errors"
	"strings"
)

// Quote writes an argument as a shell reads it.
func Quote(arg string) string {
	if arg == "" || strings.ContainsAny(arg, " \t\r\n'\"\\$`*?[]#;&|<>(){}~!") {
		return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return arg
}

// Words are the words of a command line, as a shell splits them: quotes, backslashes, comments, and lines that go on, also
// with the line ends of Windows. Nothing is expanded.
func Words(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	in, escaped, comment := false, false, false
	end := func() {
		if in {
			words = append(words, word.String())
		}
		word.Reset()
		in = false
	}
	for i, r := range text {
		switch {
		case comment:
			comment = r != '\n'
		case escaped && quote == 0 && strings.HasPrefix(text[i:], "\r\n"): // and then the line goes on
		case escaped:
			if r != '\n' {
				if quote == '"' && !strings.ContainsRune("\"\\$`", r) {
					word.WriteByte('\\')
				}
				word.WriteRune(r)
				in = true
			}
			escaped = false
		case r == '\\' && quote != '\'':
			escaped = true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '#' && !in:
			comment = true
		case r == '\'' || r == '"':
			quote, in = r, true
		case strings.ContainsRune(" \t\r\n", r):
			end()
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	end()
	return words, nil
}

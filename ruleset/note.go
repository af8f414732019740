package ruleset

import (
	"encoding/base64"
	"strings"
)

// KeptNote returns the text of [Ruleset.Note].
func (rs Ruleset) KeptNote() (string, error) {
	if rs.Note == nil {
		return "", nil
	}
	return rs.Note()
}

// noteMark begins the comments that hold a [Ruleset.Note].
const noteMark = "note "

// NoteComments returns a note as comments of at most size bytes each, in letters, digits, - and _ alone: every program
// that lists rules can list them. [ReadNote] reads it back.
func NoteComments(note string, size int) (comments []string) {
	text := base64.RawURLEncoding.EncodeToString([]byte(note))
	for len(text) > 0 {
		n := min(len(text), size-len(noteMark))
		comments = append(comments, noteMark+text[:n])
		text = text[n:]
	}
	return comments
}

// IsNote reports whether a comment holds a part of a note.
func IsNote(comment string) bool { return strings.HasPrefix(comment, noteMark) }

// ReadNote returns the note that comments hold, in their order. Where there is none, or it is damaged, it is empty.
func ReadNote(comments []string) string {
	var text strings.Builder
	for _, c := range comments {
		part, is := strings.CutPrefix(c, noteMark)
		if !is {
			return ""
		}
		text.WriteString(part)
	}
	note, err := base64.RawURLEncoding.DecodeString(text.String())
	if err != nil {
		return ""
	}
	return string(note)
}

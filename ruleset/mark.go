package ruleset

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// AllBits is the mask under which every bit of a mark counts.
const AllBits = 1<<32 - 1

// Mark is a value and the bits of it that count: a packet has the mark if mark & Mask == Value. The zero Mark is none.
type Mark struct{ Value, Mask uint32 }

// ParseMark reads "0x539/0xfff", a value and the bits of it that count; without
// the second, all count. "none" is the zero Mark.
func ParseMark(s string) (Mark, error) {
	if s == "none" {
		return Mark{}, nil
	}
	value, mask, masked := strings.Cut(s, "/")
	m := Mark{Mask: AllBits}
	v, err := strconv.ParseUint(value, 0, 32)
	m.Value = uint32(v)
	if err == nil && masked {
		v, err = strconv.ParseUint(mask, 0, 32)
		m.Mask = uint32(v)
	}
	if err != nil {
		return Mark{}, fmt.Errorf("%q is not a mark (a number, and the bits that count, as in 1337 or 0x539/0xfff)",
			strict.Clip(s))
	}
	return m, m.Validate()
}

// Matches reports whether a packet or a socket with a mark has this one. None is had by nobody.
func (m Mark) Matches(mark uint32) bool { return m.Mask != 0 && mark&m.Mask == m.Value }

// Validate reports a Mark that packets without a mark have, or that none can have.
func (m Mark) Validate() error {
	switch {
	case m == Mark{}:
		return nil
	case m.Value == 0:
		return fmt.Errorf("mark %s: packets without a mark have the value 0", m)
	case m.Value&^m.Mask != 0:
		return fmt.Errorf("mark %s: the value has bits that the mask has not, so that no packet would match", m)
	}
	return nil
}

// String returns the text form: "0x539", "0x539/0xfff" or "none".
func (m Mark) String() string {
	switch {
	case m == Mark{}:
		return "none"
	case m.Mask == AllBits:
		return fmt.Sprintf("%#x", m.Value)
	}
	return fmt.Sprintf("%#x/%#x", m.Value, m.Mask)
}

// Set makes the mark a flag value (flag.Value).
func (m *Mark) Set(s string) (err error) { *m, err = ParseMark(s); return err }

// MarshalText writes the text form.
func (m Mark) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads the text form.
func (m *Mark) UnmarshalText(b []byte) (err error) { *m, err = ParseMark(string(b)); return err }

// UnmarshalJSON reads a number or the text form.
func (m *Mark) UnmarshalJSON(b []byte) error { return strict.UnmarshalJSON(b, m) }

package cli

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFit: lines are as wide as the terminal, and what is no terminal changes nothing.
func TestFit(t *testing.T) {
	defer func() { columns = Width }()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	fd := int(master.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	pipe, _, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	text := strings.Repeat("word ", 60)
	for set, want := range map[uint16]int{0: 100, 60: 60, 10: 40, 120: 120, 500: 160} {
		columns = Width
		if err := unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: set}); err != nil {
			t.Fatal(err)
		}
		Fit(terminal)
		Fit(pipe)
		for _, laid := range []string{Hang("", 2, text), Table([]Row{{"A", "B"}, {"x", text}})} {
			longest := 0
			for line := range strings.SplitSeq(laid, "\n") {
				longest = max(longest, len(line))
			}
			if longest > want || longest <= want-8 {
				t.Errorf("a terminal of %d columns: lines of up to %d, want %d:\n%s", set, longest, want, laid)
			}
		}
	}
}

// TestMarksTakeNoColumns: a line is broken where it is without colours.
func TestMarksTakeNoColumns(t *testing.T) {
	style := Style{on: true}
	words := strings.Repeat("word ", 19) + "words more"
	plain, marked := Hang("", 2, words), Hang("", 2, style.Bad("word")+strings.TrimPrefix(words, "word"))
	if strings.Replace(marked, style.Bad("word"), "word", 1) != plain {
		t.Errorf("%q\n%q", plain, marked)
	}
	rows := []Row{{"A", "B"}, {style.Good("ok"), "x"}, {"none", "y"}}
	if got, want := Table(rows), "A     B\n"+style.Good("ok")+"    x\nnone  y\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Package example runs examples that need root. go test runs an example whether
// or not it can work, so those have no Output comment; a test that may skip runs
// them instead.
package example

import (
	"io"
	"os"
	"testing"
)

// Expect runs an example and compares what it prints on standard output. No
// other test of the package may print meanwhile.
func Expect(t testing.TB, f func(), want string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	printed := make(chan string)
	go func() {
		b, _ := io.ReadAll(r) // a pipe of our own
		printed <- string(b)
	}()
	stdout := os.Stdout
	os.Stdout = w
	func() {
		defer func() { os.Stdout = stdout; w.Close() }()
		f()
	}()
	if got := <-printed; got != want {
		t.Errorf("the example prints\n%s\nwant\n%s", got, want)
	}
}

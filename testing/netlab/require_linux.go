package netlab

import "fmt"

// TB is the part of [testing.TB] that this package uses. It keeps package
// testing out of programs that are no tests.
type TB interface {
	Helper()
	Cleanup(func())
	Error(args ...any)
	Fatal(args ...any)
	Skip(args ...any)
}

// Require skips the test if this process may not make network namespaces, and
// says which command to run instead. With MESH_TEST_REQUIRE=1 in the
// environment the test fails: a test that must run was not run.
func Require(t TB) {
	t.Helper()
	n, err := NewNamespace()
	if err == nil {
		err = n.Close()
	}
	if err == nil {
		return
	}
	Skip(t, fmt.Sprintf(`%v: this test needs root; run: sudo env "PATH=$PATH" go test ./...`, err))
}

// NewT makes a lab for a test, and closes it when the test is over. It calls
// [Require] first.
func NewT(t TB, o Options) *Lab {
	t.Helper()
	Require(t)
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

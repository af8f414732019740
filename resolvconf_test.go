package intercept_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// FuzzResolvConf holds that the servers of any file are addresses that rules can
// match, each once, and the same if they are written again.
func FuzzResolvConf(f *testing.F) {
	f.Add("search a b\nnameserver 10.0.0.10\noptions ndots:5\n")
	f.Add("nameserver fe80::1%eth0 # x\nnameserver ::ffff:1.2.3.4\nnameserver 0.0.0.0\n" +
		"nameserver 1.2.3.4;nameserver ::1\r\n")
	f.Add("nameserver\x00nameserver \xff\n;\n#")
	f.Fuzz(func(t *testing.T, text string) {
		servers := intercept.ParseResolvConf(text)
		var again strings.Builder
		for i, s := range servers {
			if !s.IsValid() || s.IsUnspecified() || s.Zone() != "" || s.Is4In6() || slices.Contains(servers[:i], s) {
				t.Fatalf("%v of %q", servers, text)
			}
			fmt.Fprintf(&again, "nameserver %s\n", s)
		}
		if got := intercept.ParseResolvConf(again.String()); !slices.Equal(got, servers) {
			t.Fatalf("%v became %v", servers, got)
		}
	})
}

// TestManyServers: the time to read a file grows with its length, not with its
// square.
func TestManyServers(t *testing.T) {
	var text strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&text, "nameserver fd00::%x:%x\n", i>>16, i&0xffff)
	}
	done := make(chan int, 1)
	go func() { done <- len(intercept.ParseResolvConf(text.String())) }()
	select {
	case n := <-done:
		if n != 200_000-1 && n != 200_000 {
			t.Errorf("%d servers", n)
		}
	case <-time.After(time.Minute): // with the square of the number it is some ten
		t.Error("it takes over a minute")
	}
}

// FuzzInterface holds that a name that is valid can stand in a list of names, and
// is one that the kernel could have.
func FuzzInterface(f *testing.F) {
	for _, seed := range []string{"eth0", "net*", "k6t-*", "eth0.100", "none", "*", "a,b", "-x", "eth0@if7", "\u202eeth",
		"a/b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		c := intercept.Default()
		c.ExcludeInterfaces = []string{name}
		if c.Validate() != nil {
			return
		}
		var list []string
		text := strict.Text(c.ExcludeInterfaces)
		if err := strict.SetText(&list, text); err != nil || !slices.Equal(list, c.ExcludeInterfaces) {
			t.Fatalf("%q became %q, %v", name, list, err)
		}
		if len(name) > 15 || strict.OneLine(name) != name {
			t.Fatalf("%q is valid", name)
		}
		if _, err := intercept.Compile(c); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
	})
}

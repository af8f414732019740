// Package version says which version of the source a program was built from.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// stamped is set by the linker (make build). Empty: nobody has set it.
var stamped string

// Info is what a program was built from. What is not known is "unknown".
type Info struct {
	// Version is that of make build, else that of go install MODULE@VERSION.
	Version string `json:"version"`
	// Revision is the commit.
	Revision string `json:"revision"`
	// Modified reports that files differed from the commit.
	Modified bool `json:"modified"`
	// Go is the version of the compiler.
	Go string `json:"go"`
}

// Get reads what the linker and the Go command have written into this program.
func Get() Info {
	v := Info{"unknown", "unknown", false, runtime.Version()}
	info, ok := debug.ReadBuildInfo()
	if ok && info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	if stamped != "" {
		v.Version = stamped
	}
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

// String is the version on one line, for people.
func (v Info) String() string {
	modified := ""
	if v.Modified {
		modified = ", modified"
	}
	return fmt.Sprintf("%s, revision %s%s, %s", v.Version, v.Revision, modified, v.Go)
}

// Package version says which version of the source a program was built from.
package version

import (
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
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return of(stamped, info)
}

// Short is the Version of Get. What make build has made needs nothing read for it.
func Short() string {
	if stamped != "" {
		return stamped
	}
	return Get().Version
}

func of(stamped string, info *debug.BuildInfo) Info {
	v := Info{Version: "unknown", Revision: "unknown", Go: runtime.Version()}
	switch {
	case stamped != "":
		v.Version = stamped
	case info.Main.Version != "":
		v.Version = info.Main.Version
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
	text := v.Version
	if v.Revision != "unknown" {
		text += ", revision " + v.Revision
	}
	if v.Modified {
		text += ", modified"
	}
	return text + ", " + v.Go
}

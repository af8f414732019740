package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

func (j job) version() error {
	v := struct {
		Version  string `json:"version"`
		Revision string `json:"revision"`
		Modified bool   `json:"modified"`
		Go       string `json:"go"`
	}{"unknown", "unknown", false, runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
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
	}
	if j.json {
		return j.printJSON(v)
	}
	modified := ""
	if v.Modified {
		modified = ", modified"
	}
	fmt.Fprintf(j.out, "mesh-init %s, revision %s%s, %s\n", v.Version, v.Revision, modified, v.Go)
	return nil
}

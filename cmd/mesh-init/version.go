package main

import (
	"github.com/mesh-intercept/intercept/internal/cli"
	"github.com/mesh-intercept/intercept/internal/version"
)

func versionVerb() verb {
	return verb{cli.Verb{Name: "version", Does: "print the version"}, job.version}
}

func (j job) version() error {
	v := version.Get()
	return j.print(v, func() string { return "mesh-init " + v.String() + "\n" })
}

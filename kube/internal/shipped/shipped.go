// Package shipped says what is in the container images of Intercept, and where it
// comes from.
package shipped

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/internal/peers"
	"github.com/mesh-intercept/intercept/kube/internal/image"
	"github.com/mesh-intercept/intercept/kube/internal/notices"
	"github.com/mesh-intercept/intercept/kube/internal/sbom"
)

// Programs are the programs in each image. The first is the entry point.
func Programs() []string {
	return []string{"mesh-init", "mesh-cni", "mesh-cni-agent", "mesh-probe", "mesh-injector"}
}

// Source is where the source is.
const Source = "https://github.com/mesh-intercept/intercept"

// Build is what Go programs were built from, as far as they say.
type Build struct {
	// Architecture is a GOARCH.
	Architecture string
	// Revision is the commit; "": not known.
	Revision string
	// Modified is whether files differed from the commit.
	Modified bool
	// Time is the commit's; zero: not known.
	Time time.Time
	// Go is the version of the compiler.
	Go string
}

// BuildOf reads what all of some programs were built from. It fails where they do not agree, and where there are none.
func BuildOf(programs map[string][]byte) (Build, error) {
	var all Build
	for path, text := range programs {
		info, err := buildinfo.Read(bytes.NewReader(text))
		if err != nil {
			return Build{}, fmt.Errorf("%s: %w", path, err)
		}
		b := Build{Go: info.GoVersion}
		for _, s := range info.Settings {
			switch s.Key {
			case "GOARCH":
				b.Architecture = s.Value
			case "vcs.revision":
				b.Revision = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			case "vcs.time":
				if b.Time, err = time.Parse(time.RFC3339, s.Value); err != nil {
					return Build{}, fmt.Errorf("%s: time of the commit: %w", path, err)
				}
			}
		}
		if all != (Build{}) && all != b {
			return Build{}, fmt.Errorf("%s was built from %+v, and others from %+v: build all of them again", path, b, all)
		}
		all = b
	}
	if all == (Build{}) {
		return Build{}, fmt.Errorf("no programs")
	}
	return all, nil
}

// Layer is of files of Debian's packages, below the programs.
type Layer struct {
	// Files is a tar.
	Files    []byte
	Packages []sbom.Package
}

// Image returns the image of programs, and of layers below them, with its SBOM and its provenance. name is the image's, with
// a tag; version is the programs' own.
func Image(name, version string, programs map[string][]byte, under ...Layer) (image.Platform, error) {
	build, err := BuildOf(programs)
	if err != nil {
		return image.Platform{}, err
	}
	entry := Programs()[0]
	// Some meshes' init containers are not root, and have these capabilities all the same.
	const netAdmin, netRaw = 12, 13
	i := image.Image{
		Name: name, Architecture: build.Architecture, Entrypoint: []string{"/" + entry}, Files: maps.Clone(programs),
		Links: map[string]string{}, Grants: map[string][]int{entry: {netAdmin, netRaw}},
		Texts:  map[string][]byte{"licenses/THIRD_PARTY": []byte(notices.Text)},
		Labels: Labels(version, build), Created: build.Time,
	}
	var packages []sbom.Package
	for _, l := range under {
		i.Under = append(i.Under, l.Files)
		packages = append(packages, l.Packages...)
		i.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	for _, path := range peers.Programs() { // by which the entry point is called, too
		i.Links[strings.TrimPrefix(path, "/")] = i.Entrypoint[0]
	}
	document, err := sbom.Document(sbom.Content{Name: name, Version: version, Created: build.Time, Programs: programs,
		Packages: packages})
	if err != nil {
		return image.Platform{}, err
	}
	provenance, err := json.Marshal(provenanceOf(version, build, packages...))
	return image.Platform{Image: i, Statements: []image.Statement{
		{Type: "https://spdx.dev/Document", Predicate: document},
		{Type: "https://slsa.dev/provenance/v1", Predicate: provenance},
	}}, err
}

// Labels say what an image is, by the names of the OCI's annotations.
func Labels(version string, b Build) map[string]string {
	const prefix = "org.opencontainers.image."
	labels := map[string]string{
		prefix + "title":         "Intercept",
		prefix + "description":   "Sends a pod's traffic through its sidecar proxy",
		prefix + "licenses":      "Apache-2.0",
		prefix + "source":        Source,
		prefix + "documentation": Source + "/tree/main/docs",
		prefix + "version":       version,
	}
	if b.Revision != "" {
		labels[prefix+"revision"] = b.Revision
	}
	if !b.Time.IsZero() {
		labels[prefix+"created"] = b.Time.UTC().Format(time.RFC3339)
	}
	return labels
}

// provenance is SLSA's (https://slsa.dev/spec/v1.0/provenance), as far as it is used. It has no time and no names of
// machines: whoever builds the same commit makes the same.
type provenance struct {
	BuildDefinition struct {
		BuildType            string            `json:"buildType"`
		ExternalParameters   map[string]string `json:"externalParameters"`
		ResolvedDependencies []resource        `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
	} `json:"runDetails"`
}

type resource struct {
	URI    string            `json:"uri"`
	Digest map[string]string `json:"digest,omitempty"`
}

func provenanceOf(version string, b Build, packages ...sbom.Package) provenance {
	var p provenance
	p.BuildDefinition.BuildType = Source + "/blob/main/docs/release.md"
	p.BuildDefinition.ExternalParameters = map[string]string{
		"command": "make images", "version": version, "architecture": b.Architecture,
	}
	source := resource{URI: "git+" + Source}
	if b.Revision != "" && !b.Modified {
		source.Digest = map[string]string{"gitCommit": b.Revision}
	}
	p.BuildDefinition.ResolvedDependencies = []resource{source, {URI: "https://go.dev/dl/#" + b.Go}}
	for _, d := range packages {
		p.BuildDefinition.ResolvedDependencies = append(p.BuildDefinition.ResolvedDependencies,
			resource{URI: d.URL(), Digest: map[string]string{"sha256": d.Sum}})
	}
	p.RunDetails.Builder.ID = Source + "/blob/main/Makefile"
	return p
}

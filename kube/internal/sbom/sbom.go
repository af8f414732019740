// Package sbom lists what something that ships is made of, as SPDX 2.3: the Go
// modules that programs were built from are read from the programs.
package sbom

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"

	"github.com/mesh-intercept/intercept/kube/internal/notices"
)

// Content is what something that ships is made of.
type Content struct {
	// Name and Version are its own.
	Name, Version string
	// Created is when its source was written: an SBOM of the same programs is the same.
	Created time.Time
	// Programs are its Go programs, by their paths.
	Programs map[string][]byte
	// Packages are the packages of Debian of which it has files.
	Packages []Package
}

// Package is a package of Debian for an architecture of Debian's. Sum is its SHA-256, in hexadecimal.
type Package struct{ Name, Version, Architecture, Sum string }

// URL is the package's name everywhere (https://github.com/package-url/purl-spec).
func (p Package) URL() string {
	return "pkg:deb/debian/" + p.Name + "@" + url.QueryEscape(p.Version) + "?arch=" + p.Architecture
}

const (
	own         = "github.com/mesh-intercept/intercept"
	noAssertion = "NOASSERTION"
)

// Document returns the SBOM, in JSON. It fails if a program is not Go's. What it does not know of a licence is
// NOASSERTION.
func Document(c Content) (json.RawMessage, error) {
	whole := pkg("content", c.Name, c.Version, "Apache-2.0", "")
	d := document{packages: map[common.ElementID]*spdx.Package{}}
	d.relate("DOCUMENT", common.TypeRelationshipDescribe, d.add(whole))
	for _, path := range slices.Sorted(maps.Keys(c.Programs)) {
		text := c.Programs[path]
		info, err := buildinfo.Read(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("SBOM of %s: %w", path, err)
		}
		sum := sha256.Sum256(text)
		program := pkg("program", path, c.Version, "Apache-2.0", "pkg:golang/"+info.Path)
		program.PackageFileName = path
		program.PrimaryPackagePurpose = "APPLICATION"
		program.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: hex.EncodeToString(sum[:])}}
		of := d.add(program)
		d.relate(whole.PackageSPDXIdentifier, common.TypeRelationshipContains, of)
		d.relate(of, common.TypeRelationshipDependsOn, d.add(module("std", strings.TrimPrefix(info.GoVersion, "go"))))
		for _, dep := range info.Deps {
			if isOwn(dep.Path) {
				continue
			}
			used := actual(dep)
			d.relate(of, common.TypeRelationshipDependsOn, d.add(module(used.Path, used.Version)))
		}
	}
	for _, p := range c.Packages {
		debian := pkg("deb", p.Name, p.Version, noAssertion, p.URL())
		debian.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: p.Sum}}
		d.relate(whole.PackageSPDXIdentifier, common.TypeRelationshipContains, d.add(debian))
	}
	return d.write(c)
}

func isOwn(path string) bool { return path == own || strings.HasPrefix(path, own+"/") }

// actual is the module that is built, where go.mod replaces one.
func actual(m *debug.Module) *debug.Module {
	if m.Replace != nil {
		return m.Replace
	}
	return m
}

func module(path, version string) *spdx.Package {
	purl := "pkg:golang/" + path + "@" + version
	if path == "std" {
		purl = "pkg:golang/std@" + version
	}
	return pkg("module", path, version, cmp.Or(notices.License(path), noAssertion), purl)
}

func pkg(kind, name, version, license, purl string) *spdx.Package {
	sum := sha256.Sum256([]byte(kind + " " + name + " " + version))
	p := &spdx.Package{
		PackageName: name, PackageVersion: version, PackageDownloadLocation: noAssertion,
		PackageSPDXIdentifier:  common.ElementID(kind + "-" + hex.EncodeToString(sum[:8])),
		PackageLicenseDeclared: license, PackageLicenseConcluded: noAssertion, PackageCopyrightText: noAssertion,
		IsFilesAnalyzedTagPresent: true,
	}
	if purl != "" {
		p.PackageExternalReferences = []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl,
		}}
	}
	return p
}

// document collects packages, each once, and how they belong together.
type document struct {
	packages map[common.ElementID]*spdx.Package
	relation []*spdx.Relationship
}

func (d *document) add(p *spdx.Package) common.ElementID {
	d.packages[p.PackageSPDXIdentifier] = p
	return p.PackageSPDXIdentifier
}

func (d *document) relate(a common.ElementID, how string, b common.ElementID) {
	d.relation = append(d.relation, &spdx.Relationship{
		RefA: common.DocElementID{ElementRefID: a}, RefB: common.DocElementID{ElementRefID: b}, Relationship: how,
	})
}

func (d *document) write(c Content) (json.RawMessage, error) {
	doc := spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: c.Name,
		CreationInfo: &spdx.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Organization", Creator: own}},
			Created:  c.Created.UTC().Format(time.RFC3339),
		},
		Relationships: d.relation,
	}
	for _, id := range slices.Sorted(maps.Keys(d.packages)) {
		doc.Packages = append(doc.Packages, d.packages[id])
	}
	// The namespace is one of this document's own, by its content.
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	doc.DocumentNamespace = fmt.Sprintf("https://%s/spdx/%s-%s-%s", own, url.PathEscape(c.Name), url.PathEscape(c.Version),
		hex.EncodeToString(sum[:8]))
	return json.MarshalIndent(doc, "", " ")
}

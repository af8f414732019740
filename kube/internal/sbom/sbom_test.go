package sbom

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdxlib"

	"github.com/mesh-intercept/intercept/testing/program"
)

func TestDocument(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh-cni")
	if err := program.Build(path, "cmd/mesh-cni"); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content := Content{Name: "localhost/x:1", Version: "v1.2.3", Created: time.Unix(1e9, 0),
		Programs: map[string][]byte{"/self": program, "/twice": program},
		Packages: []Package{{"libc6", "2.41-12+deb13u1", "arm64", "c0ffee"}}}
	text, err := Document(content)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Document(content); err != nil || !bytes.Equal(text, again) {
		t.Errorf("the same content has another SBOM: %v", err)
	}
	doc, err := json.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		t.Error(err)
	}
	got := map[string]string{}
	names := map[common.ElementID]string{"DOCUMENT": "document"}
	for _, p := range doc.Packages {
		names[p.PackageSPDXIdentifier] = p.PackageName
		for _, ref := range p.PackageExternalReferences {
			got[p.PackageName] = p.PackageLicenseDeclared + " " + ref.Locator
		}
	}
	var relations []string
	for _, r := range doc.Relationships {
		relations = append(relations, names[r.RefA.ElementRefID]+" "+r.Relationship+" "+names[r.RefB.ElementRefID])
	}
	for name, want := range map[string]string{
		"libc6":                        "NOASSERTION pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=arm64",
		"/self":                        "Apache-2.0 pkg:golang/" + own + "/cmd/mesh-cni",
		"github.com/vishvananda/netns": "Apache-2.0 pkg:golang/github.com/vishvananda/netns@v",
		"std":                          "BSD-3-Clause pkg:golang/std@1.",
	} {
		if !strings.HasPrefix(got[name], want) {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	for _, want := range []string{"document DESCRIBES localhost/x:1", "localhost/x:1 CONTAINS /self",
		"localhost/x:1 CONTAINS /twice", "localhost/x:1 CONTAINS libc6", "/twice DEPENDS_ON std",
		"/self DEPENDS_ON github.com/vishvananda/netns"} {
		if !slices.Contains(relations, want) {
			t.Errorf("%q is not in %q", want, relations)
		}
	}
	if diff := cmp.Diff("2001-09-09T01:46:40Z", doc.CreationInfo.Created); diff != "" {
		t.Error(diff)
	}
	if _, err := Document(Content{Programs: map[string][]byte{"/text": []byte("text")}}); err == nil ||
		!strings.Contains(err.Error(), "/text") {
		t.Errorf("a program that is none: %v", err)
	}
}

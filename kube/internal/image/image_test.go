package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestArchive reads an image as an engine does. That one takes it is shown by
// testing/node, whose containerd imports images of this package.
func TestArchive(t *testing.T) {
	i := Image{
		Name: "localhost/x:1", Architecture: "arm64", Entrypoint: []string{"/b", "pause"},
		Files: map[string][]byte{"b": []byte("B"), "a": []byte("AA")},
		Links: map[string]string{"usr/bin/c": "/b"}, Grants: map[string][]int{"b": {12, 13, 33}},
	}
	text, err := Archive(i)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Archive(i); err != nil || !bytes.Equal(text, again) {
		t.Errorf("the same image is another archive: %v", err)
	}
	files := unpack(t, text)
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("%v: %s", err, files["manifest.json"])
	}
	layer := files[manifest[0].Layers[0]]
	var config any
	if err := json.Unmarshal(files[manifest[0].Config], &config); err != nil {
		t.Fatal(err)
	}
	const epoch = "1970-01-01T00:00:00Z"
	want := map[string]any{
		"architecture": "arm64", "os": "linux", "created": epoch, "history": []any{map[string]any{"created": epoch}},
		"config": map[string]any{"Entrypoint": []any{"/b", "pause"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []any{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	}
	if diff := cmp.Diff(want, config); diff != "" || manifest[0].RepoTags[0] != i.Name {
		t.Errorf("%s%s", diff, files["manifest.json"])
	}
	i.Files["usr/bin/c"] = []byte("-> /b")
	i.Files["b, granted"] = []byte("\x00\x00\x00\x02\x00\x30\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00")
	if diff := cmp.Diff(i.Files, unpack(t, layer)); diff != "" {
		t.Error(diff)
	}
}

func TestBadName(t *testing.T) {
	for _, name := range []string{"", "localhost/X:1", "localhost/x:"} {
		if _, err := Archive(Image{Name: name}); err == nil || !strings.Contains(err.Error(), "name of the image") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func unpack(t *testing.T, archive []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err == nil {
			files[h.Name], err = io.ReadAll(r)
		}
		if grants := h.PAXRecords["SCHILY.xattr.security.capability"]; err == nil && grants != "" {
			files[h.Name+", granted"] = []byte(grants)
		}
		if err == nil && h.Typeflag == tar.TypeSymlink {
			files[h.Name] = []byte("-> " + h.Linkname)
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: of user %d, at %v", h.Name, h.Uid, h.ModTime)
		}
	}
}

package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestIndex reads an index as registries and engines do.
func TestIndex(t *testing.T) {
	var platforms []Platform
	for _, architecture := range []string{"amd64", "arm64"} {
		platforms = append(platforms, Platform{
			Image: Image{
				Name: "localhost/x:1", Architecture: architecture, Entrypoint: []string{"/a"},
				Files: map[string][]byte{"a": []byte("for " + architecture)}, Texts: map[string][]byte{"licenses/b": []byte("B")},
				Labels: map[string]string{"what": "x"}, Created: time.Unix(1e9, 0),
				Env: []string{"A=b"}, Under: [][]byte{tarOf(t, "lowest"), tarOf(t, "low")},
			},
			Statements: []Statement{{"https://example.com/of", json.RawMessage(`{"a":"` + architecture + `"}`)}},
		})
	}
	var b, again bytes.Buffer
	digest, err := Index(&b, map[string]string{"about": "both"}, platforms...)
	if err != nil {
		t.Fatal(err)
	}
	if same, err := Index(&again, map[string]string{"about": "both"}, platforms...); err != nil || same != digest ||
		!bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Errorf("the same images are another index: %s and %s, %v", digest, same, err)
	}

	dir := t.TempDir()
	for path, text := range unpack(t, b.Bytes()) {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	top, err := all.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"io.containerd.image.name": "localhost/x:1", "org.opencontainers.image.ref.name": "1"},
		top.Manifests[0].Annotations); diff != "" || top.Manifests[0].Digest.String() != digest {
		t.Errorf("%s, not %s: %s", top.Manifests[0].Digest, digest, diff)
	}
	index, err := all.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"about": "both"}, manifest.Annotations); diff != "" || len(manifest.Manifests) != 4 {
		t.Fatalf("%d manifests, %s", len(manifest.Manifests), diff)
	}
	for i, p := range platforms {
		described := manifest.Manifests[i]
		if described.Platform.Architecture != p.Architecture || described.Platform.OS != "linux" {
			t.Errorf("platform %v, not %s", described.Platform, p.Architecture)
		}
		image, err := index.Image(described.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(image); err != nil {
			t.Error(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		own, err := image.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if cmp.Diff(p.Labels, config.Config.Labels)+cmp.Diff(p.Labels, own.Annotations) != "" || !config.Created.Equal(p.Created) {
			t.Errorf("%+v, %v", config, own.Annotations)
		}
		layers := contents(t, image)
		if len(layers) != 3 || !bytes.Equal(layers[0], tarOf(t, "lowest")) || !bytes.Equal(layers[1], tarOf(t, "low")) ||
			len(config.History) != 3 || config.Config.Env[0] != "A=b" {
			t.Fatalf("%d layers, %+v", len(layers), config)
		}
		if got := layers[2]; string(unpack(t, got)["a"]) != "for "+p.Architecture ||
			string(unpack(t, got)["licenses/b"]) != "B" {
			t.Errorf("image for %s has %q", p.Architecture, got)
		}

		said := manifest.Manifests[2+i]
		if diff := cmp.Diff(map[string]string{"vnd.docker.reference.type": "attestation-manifest",
			"vnd.docker.reference.digest": described.Digest.String()}, said.Annotations); diff != "" || said.Platform.OS != "unknown" {
			t.Errorf("%v: %s", said.Platform, diff)
		}
		statements, err := index.Image(said.Digest)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		for text, to := range map[string]*any{
			string(contents(t, statements)[0]): &got,
			`{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://example.com/of", "predicate": {"a": "` +
				p.Architecture + `"}, "subject": [{"name": "localhost/x:1", "digest": {"sha256": "` + described.Digest.Hex + `"}}]}`: &want,
		} {
			if err := json.Unmarshal([]byte(text), to); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}

	if _, err := Index(&again, nil, Platform{Image: Image{Name: "localhost/X:1"}}); err == nil {
		t.Error("a bad name is taken")
	}
}

// tarOf is a tar of one file.
func tarOf(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(writeFile(w, tar.Header{Name: name, Mode: 0o644}, []byte(name)), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// contents returns the layers of an image.
func contents(t *testing.T, image v1.Image) (all [][]byte) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

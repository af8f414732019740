package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Statement is what somebody says about an image: the predicate of an in-toto
// statement (https://in-toto.io/Statement/v0.1), such as an SBOM.
type Statement struct {
	// Type is the predicate's type, a URI.
	Type string
	// Predicate is JSON.
	Predicate json.RawMessage
}

// Platform is an image for one architecture, and what is said about it.
type Platform struct {
	Image
	Statements []Statement
}

// Index writes an OCI index of images of one name, for different architectures, as
// a tar of an OCI image layout, which containerd, podman, skopeo and docker (since
// 25) take. The statements lie in it as BuildKit's do, so tools that read those
// find them. The same platforms give the same bytes under the same release of Go. It
// returns the index's digest, by which the image is pulled. annotations are the index's.
func Index(to io.Writer, annotations map[string]string, of ...Platform) (digest string, err error) {
	names := map[string]string{}
	if len(of) > 0 {
		tag, err := name.NewTag(of[0].Name)
		if err != nil {
			return "", fmt.Errorf("name of the image: %w", err)
		}
		// The first is the OCI's, the second containerd's.
		names["org.opencontainers.image.ref.name"] = tag.TagStr()
		names["io.containerd.image.name"] = tag.Name()
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var attested []mutate.IndexAddendum
	for _, p := range of {
		image, err := p.build(types.OCIManifestSchema1, compressed)
		if err != nil {
			return "", err
		}
		annotated, ok := mutate.Annotations(image, p.Labels).(v1.Image)
		if !ok {
			return "", fmt.Errorf("image for %s: annotations made it something else", p.Architecture)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: annotated, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: p.Architecture},
		}})
		if len(p.Statements) == 0 {
			continue
		}
		statements, err := p.attest(annotated)
		if err != nil {
			return "", err
		}
		attested = append(attested, statements)
	}
	// After all images: old clients take the first that is there.
	index, ok := mutate.Annotations(mutate.AppendManifests(index, attested...), annotations).(v1.ImageIndex)
	if !ok {
		return "", fmt.Errorf("annotations made the index something else")
	}
	described, err := partial.Descriptor(index)
	if err != nil {
		return "", err
	}
	described.Annotations = names
	files, err := layoutOf(index, described)
	if err != nil {
		return "", err
	}
	return described.Digest.String(), pack(to, files)
}

// layoutOf returns the files of an OCI image layout with an index and all that it names.
func layoutOf(index v1.ImageIndex, described *v1.Descriptor) (map[string][]byte, error) {
	top, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex,
		Manifests: []v1.Descriptor{*described}})
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`), "index.json": top}
	blob := func(b []byte, err error) error {
		files[fmt.Sprintf("blobs/sha256/%x", sha256.Sum256(b))] = b
		return err
	}
	if err := blob(index.RawManifest()); err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, m := range manifest.Manifests {
		image, err := index.Image(m.Digest)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(blob(image.RawManifest()), blob(image.RawConfigFile())); err != nil {
			return nil, err
		}
		layers, err := image.Layers()
		if err != nil {
			return nil, err
		}
		for _, l := range layers {
			r, err := l.Compressed()
			if err != nil {
				return nil, err
			}
			if err := errors.Join(blob(io.ReadAll(r)), r.Close()); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

func compressed(files []byte) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil },
		tarball.WithMediaType(types.OCILayer))
}

// attest makes the manifest of what is said about an image.
func (p Platform) attest(about v1.Image) (mutate.IndexAddendum, error) {
	hash, err := about.Digest()
	if err != nil {
		return mutate.IndexAddendum{}, err
	}
	type subject struct {
		Name   string            `json:"name"`
		Digest map[string]string `json:"digest"`
	}
	var layers []mutate.Addendum
	for _, s := range p.Statements {
		text, err := json.Marshal(struct {
			Type          string          `json:"_type"`
			PredicateType string          `json:"predicateType"`
			Subject       []subject       `json:"subject"`
			Predicate     json.RawMessage `json:"predicate"`
		}{
			"https://in-toto.io/Statement/v0.1", s.Type,
			[]subject{{p.Name, map[string]string{hash.Algorithm: hash.Hex}}}, s.Predicate,
		})
		if err != nil {
			return mutate.IndexAddendum{}, fmt.Errorf("statement %s: %w", s.Type, err)
		}
		layers = append(layers, mutate.Addendum{
			Layer:       static.NewLayer(text, "application/vnd.in-toto+json"),
			Annotations: map[string]string{"in-toto.io/predicate-type": s.Type},
		})
	}
	const unknown = "unknown"
	image, err := assemble(types.OCIManifestSchema1,
		v1.ConfigFile{Architecture: unknown, OS: unknown, RootFS: v1.RootFS{Type: "layers"}}, layers...)
	return mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
		Platform: &v1.Platform{OS: unknown, Architecture: unknown},
		Annotations: map[string]string{
			"vnd.docker.reference.type":   "attestation-manifest",
			"vnd.docker.reference.digest": hash.String(),
		},
	}}, err
}

// pack writes a tar of files, in the order of their names, which belong to root and carry no time.
func pack(to io.Writer, files map[string][]byte) error {
	w := tar.NewWriter(to)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if err := writeFile(w, tar.Header{Name: path, Mode: 0o644, Format: tar.FormatUSTAR}, files[path]); err != nil {
			return err
		}
	}
	return w.Close()
}

// writeFile writes a file of a tar. Its size is the content's.
func writeFile(w *tar.Writer, header tar.Header, content []byte) error {
	header.Size = int64(len(content))
	if err := w.WriteHeader(&header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

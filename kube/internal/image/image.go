// Package image writes container images of a few static programs, with no
// container engine: what FROM scratch and COPY would make, or COPY over layers that
// somebody else has made.
package image

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Image is what an image is made of.
type Image struct {
	// Name is the name by which it is loaded, with its tag.
	Name string
	// Architecture is a GOARCH.
	Architecture string
	Entrypoint   []string
	// Env are variables as NAME=VALUE.
	Env []string
	// Under are the layers below its own files, the lowest first: tars.
	Under [][]byte
	// Files are its files, all of them programs. The keys are their paths,
	// without a slash in front.
	Files map[string][]byte
	// Links are further names of them: paths without a slash in front, and the files' paths with one.
	Links map[string]string
	// Grants are the capabilities (capabilities(7)) that a user other than root has in some of the Files, where the
	// container may have them. The program has to make them effective: without them it starts, too.
	Grants map[string][]int
	// Texts are files that are no programs, by their paths as those of Files.
	Texts map[string][]byte
	// Labels say what it is, by the names of the OCI's annotations. What has no label has none.
	Labels map[string]string
	// Created is when its source was written; zero: 1970, so that it says nothing.
	Created time.Time
}

// Archive returns the image in the form of `docker save`, which docker, podman,
// nerdctl, ctr, kind and k3s load. The same Image gives the same bytes. It uses
// no network and no configuration of docker. An error names what is wrong with
// the image's name.
func Archive(i Image) ([]byte, error) {
	tag, err := name.NewTag(i.Name)
	if err != nil {
		return nil, fmt.Errorf("name of the image: %w", err)
	}
	// Not compressed, since what gzip makes of it differs between releases of Go.
	image, err := i.build(types.DockerManifestSchema2, func(files []byte) (v1.Layer, error) {
		return static.NewLayer(files, types.DockerUncompressedLayer), nil
	})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = tarball.Write(tag, image, &b)
	return b.Bytes(), err
}

// build makes the image, of the layers below and the one that is made of its files.
func (i Image) build(manifest types.MediaType, layer func(files []byte) (v1.Layer, error)) (v1.Image, error) {
	own, err := i.layer()
	if err != nil {
		return nil, err
	}
	created := v1.Time{Time: time.Unix(0, 0).UTC()}
	if !i.Created.IsZero() {
		created.Time = i.Created.UTC()
	}
	var layers []mutate.Addendum
	for _, files := range append(slices.Clone(i.Under), own) {
		packed, err := layer(files)
		if err != nil {
			return nil, err
		}
		layers = append(layers, mutate.Addendum{Layer: packed, History: v1.History{Created: created}})
	}
	return assemble(manifest, v1.ConfigFile{
		Architecture: i.Architecture,
		OS:           "linux",
		Created:      created,
		Config:       v1.Config{Entrypoint: i.Entrypoint, Env: i.Env, Labels: i.Labels},
		RootFS:       v1.RootFS{Type: "layers"},
	}, layers...)
}

// assemble makes an image of its configuration and its layers.
func assemble(manifest types.MediaType, config v1.ConfigFile, layers ...mutate.Addendum) (v1.Image, error) {
	kind := types.DockerConfigJSON
	if manifest == types.OCIManifestSchema1 {
		kind = types.OCIConfigJSON
	}
	image, err := mutate.ConfigFile(mutate.ConfigMediaType(mutate.MediaType(empty.Image, manifest), kind), &config)
	if err != nil {
		return nil, err
	}
	return mutate.Append(image, layers...)
}

// layer returns a tar of programs, texts and links, which belong to root and carry no time.
func (i Image) layer() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, path := range slices.Sorted(maps.Keys(i.Files)) {
		header := tar.Header{Name: path, Mode: 0o755, Format: tar.FormatUSTAR}
		if grants := i.Grants[path]; len(grants) > 0 {
			header.Format = tar.FormatPAX
			header.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": permitted(grants)}
		}
		if err := writeFile(w, header, i.Files[path]); err != nil {
			return nil, err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(i.Texts)) {
		if err := writeFile(w, tar.Header{Name: path, Mode: 0o644, Format: tar.FormatUSTAR}, i.Texts[path]); err != nil {
			return nil, err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(i.Links)) {
		header := tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: i.Links[path], Mode: 0o777,
			Format: tar.FormatUSTAR}
		if err := w.WriteHeader(&header); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// permitted is the attribute of a file that gives capabilities as permitted, and not as effective: struct vfs_cap_data in
// its revision 2 (linux/capability.h).
func permitted(capabilities []int) string {
	const revision2 = 0x02000000
	var mask uint64
	for _, c := range capabilities {
		mask |= 1 << c
	}
	b := binary.LittleEndian.AppendUint32(nil, revision2)
	for _, half := range []uint64{mask, mask >> 32} {
		b = binary.LittleEndian.AppendUint32(b, uint32(half))
		b = binary.LittleEndian.AppendUint32(b, 0) // inheritable
	}
	return string(b)
}

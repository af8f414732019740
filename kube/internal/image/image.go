// Package image writes container images of a few static programs, with no
// container engine: what FROM scratch and COPY would make.
package image

import (
	"archive/tar"
	"bytes"
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
	// Files are its files, all of them programs. The keys are their paths,
	// without a slash in front.
	Files map[string][]byte
	// Links are further names of them: paths without a slash in front, and the files' paths with one.
	Links map[string]string
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
	files, err := archive(i.Files, i.Links)
	if err != nil {
		return nil, err
	}
	created := v1.Time{Time: time.Unix(0, 0).UTC()}
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{
		Architecture: i.Architecture,
		OS:           "linux",
		Created:      created,
		Config:       v1.Config{Entrypoint: i.Entrypoint},
		RootFS:       v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	image, err = mutate.Append(image, mutate.Addendum{
		// Not compressed, since what gzip makes of it differs between releases of Go.
		Layer:   static.NewLayer(files, types.DockerUncompressedLayer),
		History: v1.History{Created: created},
	})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = tarball.Write(tag, image, &b)
	return b.Bytes(), err
}

// archive returns a tar of programs and links to them, which belong to root and carry no time.
func archive(programs map[string][]byte, links map[string]string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, path := range slices.Sorted(maps.Keys(programs)) {
		header := tar.Header{Name: path, Mode: 0o755, Size: int64(len(programs[path])), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := w.Write(programs[path]); err != nil {
			return nil, err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(links)) {
		header := tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: links[path], Mode: 0o777,
			Format: tar.FormatUSTAR}
		if err := w.WriteHeader(&header); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

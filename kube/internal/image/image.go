// Package image writes container images of a few static programs, with no
// container engine: what FROM scratch and COPY would make.
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
	// Files are its files, all of them programs. The keys are their paths,
	// without a slash in front.
	Files map[string][]byte
	// Links are further names of them: paths without a slash in front, and the files' paths with one.
	Links map[string]string
	// Grants are the capabilities (capabilities(7)) that a user other than root has in some of the Files, where the
	// container may have them. The program has to make them effective: without them it starts, too.
	Grants map[string][]int
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
	files, err := i.layer()
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

// layer returns a tar of programs and links to them, which belong to root and carry no time.
func (i Image) layer() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, path := range slices.Sorted(maps.Keys(i.Files)) {
		header := tar.Header{Name: path, Mode: 0o755, Size: int64(len(i.Files[path])), Format: tar.FormatUSTAR}
		if grants := i.Grants[path]; len(grants) > 0 {
			header.Format = tar.FormatPAX
			header.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": permitted(grants)}
		}
		if err := w.WriteHeader(&header); err != nil {
			return nil, err
		}
		if _, err := w.Write(i.Files[path]); err != nil {
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

// Package imagetar writes container images of a few static programs, with no
// container engine: what FROM scratch and COPY would make.
package imagetar

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Image is what an image is made of.
type Image struct {
	// Name is that by which it is loaded, with its tag.
	Name string
	// Architecture is Go's name of it.
	Architecture string
	Entrypoint   []string
	// Files are its files, all of them programs, by their paths without the
	// slash in front.
	Files map[string][]byte
}

// Archive returns the image as `docker save` writes it, which docker, podman,
// nerdctl, ctr, kind and k3s load. The same Image gives the same bytes.
func Archive(i Image) ([]byte, error) {
	layer, err := archive(i.Files, 0o755)
	if err != nil {
		return nil, err
	}
	type object = map[string]any
	config, err := json.Marshal(object{
		"architecture": i.Architecture, "os": "linux",
		"config": object{"Entrypoint": i.Entrypoint},
		"rootfs": object{"type": "layers", "diff_ids": []string{digest(layer)}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]object{{"Config": "config.json", "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return archive(map[string][]byte{"manifest.json": manifest, "config.json": config, "layer.tar": layer}, 0o644)
}

func digest(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// archive is a tar of files, of root's and of no time.
func archive(files map[string][]byte, mode int64) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(files[name])), Format: tar.FormatUSTAR}); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v2"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
)

// decodeFile reads a configuration file, YAML or JSON, into c: a field that
// the file has replaces that of c, a list the whole list. On error it returns
// the paths of the fields that could not be read, "" for all of them.
//
// It reads scalars as they are written. Decoders that go through JSON take
// YAML's off for false, 0010 for 8, OUTBOUND for outbound, and nothing at all
// for the second of two documents.
func decodeFile(data []byte, c *intercept.Config) (fields []string, err error) {
	var root decode.Node
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.SetStrict(true) // no key twice
	switch err := decodeDocument(d, &root); {
	case errors.Is(err, io.EOF) || err == nil && root.IsNull():
		return []string{""}, errors.New("empty file; write the fields that differ from the defaults, or leave the file out")
	case err != nil:
		return []string{""}, yamlErrors(err)
	}
	var second decode.Node
	if err := decodeDocument(d, &second); !errors.Is(err, io.EOF) {
		return []string{""}, errors.New("more after the end of the first YAML document; a configuration is one document")
	}
	return root.Into(c)
}

// decodeDocument decodes the next YAML document. The parser panics on some
// malformed input that it does not foresee; that is an error like others.
func decodeDocument(d *yaml.Decoder, n *decode.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed YAML: %v", r)
		}
	}()
	return d.Decode(n)
}

// yamlErrors makes one error of each of YAML's lines.
func yamlErrors(err error) error {
	var many *yaml.TypeError
	if !errors.As(err, &many) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	var errs []error
	for _, e := range many.Errors {
		errs = append(errs, errors.New(e))
	}
	return errors.Join(errs...)
}

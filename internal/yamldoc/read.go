package yamldoc

import (
	"fmt"
	"io"
	"os"
)

// MaxFile is more than any configuration needs: 100,000 CIDRs take half of it.
const MaxFile = 4 << 20

// ReadFile reads a file that a person has named, or stdin for "-" if there is one.
func ReadFile(path string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if path != "-" || stdin == nil {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > MaxFile:
		return nil, fmt.Errorf("%s: over %d bytes, too large for a configuration", path, MaxFile)
	}
	return data, nil
}

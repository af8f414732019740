package yamldoc

import (
	"fmt"
	"io"
	"time"

	"github.com/mesh-intercept/intercept/internal/infile"
)

// MaxFile is more than any configuration needs: a million CIDRs take half of it.
const MaxFile = 64 << 20

// pipeTime is how long a FIFO is read whose writer does not come to an end.
const pipeTime = 5 * time.Second

// ReadFile reads a file that a person has named, or stdin for "-" if there is one.
// The errors are those of [infile.ReadPiped].
func ReadFile(path string, stdin io.Reader) ([]byte, error) { return ReadWithin(path, stdin, MaxFile) }

// ReadWithin is [ReadFile] of at most so many bytes.
func ReadWithin(path string, stdin io.Reader, most int64) ([]byte, error) {
	if path != "-" || stdin == nil {
		return infile.ReadPiped(path, most, pipeTime)
	}
	data, err := io.ReadAll(io.LimitReader(stdin, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s: %w: over %d bytes", path, infile.ErrTooLarge, most)
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

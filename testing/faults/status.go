package faults

import (
	"bytes"
	"errors"
	"strconv"
)

// processOf is the process of a thread, by its /proc/PID/status.
func processOf(status []byte) (int, error) {
	for line := range bytes.Lines(status) {
		if id, ok := bytes.CutPrefix(line, []byte("Tgid:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(id)))
		}
	}
	return 0, errors.New("a status without a process")
}

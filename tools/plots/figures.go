package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/perf/benchfmt"
)

// figures are what benchmarks have measured, by name and unit, as in "Process/apply x-hello". A name has neither
// "Benchmark" before it nor the number of processors behind it.
type figures struct {
	file   string
	values map[string][]float64 // of each run
	config map[string]string    // of the last result: goos, cpu and the like
}

func readFigures(path string) (figures, error) {
	all := figures{path, map[string][]float64{}, map[string]string{}}
	f, err := os.Open(path)
	if err != nil {
		return all, err
	}
	defer f.Close()
	r := benchfmt.NewReader(f, path)
	for r.Scan() {
		switch record := r.Result().(type) {
		case *benchfmt.SyntaxError:
			return all, record
		case *benchfmt.Result:
			base, parts := record.Name.Parts()
			name := string(base)
			for _, part := range parts {
				if part[0] == '/' {
					name += string(part)
				}
			}
			for _, v := range record.Values {
				key := name + " " + v.Unit
				all.values[key] = append(all.values[key], v.Value)
			}
			for _, c := range record.Config {
				all.config[c.Key] = string(c.Value)
			}
		}
	}
	return all, r.Err()
}

// missingError names a figure that nothing has measured.
type missingError struct{ file, key string }

func (e *missingError) Error() string {
	return fmt.Sprintf("%s has no figure %q: make figures measures it", e.file, e.key)
}

// get returns the median of a figure's runs.
func (f figures) get(key string) (float64, error) {
	runs := slices.Sorted(slices.Values(f.values[key]))
	if len(runs) == 0 {
		return 0, &missingError{f.file, key}
	}
	return runs[len(runs)/2], nil
}

// span writes the least and the greatest of some figures, or one if they are written the same.
func (f figures) span(format string, keys ...string) (string, error) {
	var all []float64
	for _, key := range keys {
		v, err := f.get(key)
		if err != nil {
			return "", err
		}
		all = append(all, v)
	}
	least, most := fmt.Sprintf(format, slices.Min(all)), fmt.Sprintf(format, slices.Max(all))
	if least == most {
		return least, nil
	}
	return least + " to " + most, nil
}

// machine says where they were measured.
func (f figures) machine() (string, error) {
	var parts []string
	for _, c := range []struct{ key, format string }{
		{"cpu", "%s"}, {"processors", "%s of its processors"}, {"kernel", "Linux %s"}, {"go", "%s"},
		{"load", "load average %s"},
	} {
		v, is := f.config[c.key]
		if !is {
			return "", &missingError{f.file, c.key}
		}
		parts = append(parts, fmt.Sprintf(c.format, v))
	}
	return strings.Join(parts, ", ") + ".\n", nil
}

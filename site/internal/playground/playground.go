// Package playground finishes the playground of a site that is made: it puts the answers to the page's first questions
// beside it, so that it says something before the library is loaded, and tells the service worker what to keep.
package playground

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Files of the playground, and what is filled in.
const (
	dir       = "playground/"
	page      = dir + "index.html"
	keeper    = dir + "sw.js"
	questions = dir + "first.json"
	answered  = dir + "first.js"
	version   = `const version = "development";`
	fileList  = `const files = [];`
)

// known is a question with its answer.
type known struct {
	Request  json.RawMessage            `json:"request"`
	Response map[string]json.RawMessage `json:"response"`
}

// Finish changes the files of a site, by their paths. ask is the library, which is asked the questions of first.json
// now; an error that it answers is one of Finish.
func Finish(files map[string][]byte, ask func(request []byte) []byte) (err error) {
	if files[answered], err = answers(files[questions], ask); err != nil {
		return err
	}
	delete(files, questions)
	return keep(files)
}

// question is one of first.json.
type question struct {
	Request json.RawMessage `json:"request"`
	// Without are the fields of the response that the first view does not need.
	Without []string `json:"without"`
}

// answers is the module that has the questions with what the library says.
func answers(questions []byte, ask func([]byte) []byte) ([]byte, error) {
	var list []question
	if err := json.Unmarshal(questions, &list); err != nil {
		return nil, fmt.Errorf("first.json: %w", err)
	}
	pairs := make([]known, len(list))
	for i, q := range list {
		var response map[string]json.RawMessage
		if err := json.Unmarshal(ask(q.Request), &response); err != nil {
			return nil, fmt.Errorf("first.json: %s: %w", q.Request, err)
		}
		if problem, failed := response["error"]; failed {
			return nil, fmt.Errorf("first.json: %s: %s", q.Request, problem)
		}
		for _, field := range q.Without {
			if _, is := response[field]; !is {
				return nil, fmt.Errorf("first.json: %s: the response has no field %s to leave out", q.Request, field)
			}
			delete(response, field)
		}
		pairs[i] = known{q.Request, response}
	}
	text, err := json.Marshal(pairs)
	if err != nil {
		return nil, err
	}
	return []byte("export default " + string(text) + ";\n"), nil
}

// outside is what the page has of the rest of the site.
var outside = regexp.MustCompile(`(?:href|src)="\.\./([^"?#]+\.(?:css|js|svg))"`)

// keep tells the service worker what there is to keep, and its version: all of the playground, and what it has of the
// rest of the site.
func keep(files map[string][]byte) error {
	names := map[string]string{} // by the paths in the site, those from the page
	for name := range files {
		within, is := strings.CutPrefix(name, dir)
		// The page loads the program's compressed copy. The service worker is the browser's to keep.
		if is && path.Ext(name) != ".wasm" && name != keeper {
			names[name] = "./" + within
		}
	}
	names[page] = "./"
	for _, match := range outside.FindAllSubmatch(files[page], -1) {
		name := string(match[1])
		if files[name] == nil {
			return fmt.Errorf("%s: there is no %s", page, name)
		}
		names[name] = "../" + name
	}
	sum := sha256.New()
	kept := []string{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(sum, "%s %d\n", name, len(files[name]))
		sum.Write(files[name])
		kept = append(kept, names[name])
	}
	sum.Write(files[keeper])
	list, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	for _, place := range []struct{ at, by string }{
		{version, fmt.Sprintf("const version = %q;", hex.EncodeToString(sum.Sum(nil))[:16])},
		{fileList, fmt.Sprintf("const files = %s;", list)},
	} {
		if n := bytes.Count(files[keeper], []byte(place.at)); n != 1 {
			return fmt.Errorf("%s has %d times the place that is filled in: %s", keeper, n, place.at)
		}
		files[keeper] = bytes.Replace(files[keeper], []byte(place.at), []byte(place.by), 1)
	}
	return nil
}

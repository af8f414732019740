// Package answer is the playground's side of the library: it answers questions in JSON about configurations and packets.
// What it answers is the library's own; what it does itself is to convert. It does no I/O, and has no state.
package answer

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// maxRequest is how long a request may be, in bytes: a support document is the longest there is.
const maxRequest = 16 << 20

// Fault begins what is said where the program is to blame.
const Fault = "this is a fault of the program, please report it"

// op answers one operation.
type op struct {
	name   string
	answer func(Request) (any, error)
}

func ops() []op {
	return []op{
		{"read", read},
		{"schema", schema},
		{"explain", explained},
		{"whynot", whyNot},
		{"matrix", matrix},
		{"diff", diff},
		{"rules", rules},
		{"chains", chains},
		{"link", link},
		{"unlink", unlink},
		{"scenarios", scenarios},
		{"support", supported},
	}
}

// Ops are the operations there are.
func Ops() (names []string) {
	for _, o := range ops() {
		names = append(names, o.name)
	}
	return names
}

// Ask answers a request: JSON in, JSON out. What is wrong with the request is a [Failure].
func Ask(request []byte) []byte {
	answer, err := ask(request)
	if err != nil {
		answer = Failure{problemOf(err)}
	}
	text, err := json.Marshal(answer)
	if err != nil {
		text, _ = json.Marshal(Failure{Problem{Text: err.Error()}})
	}
	return text
}

func ask(request []byte) (answer any, err error) {
	defer func() { // whatever is asked, the page goes on
		if r := recover(); r != nil {
			answer, err = nil, fmt.Errorf("%s: %v", Fault, r)
		}
	}()
	if len(request) > maxRequest {
		return nil, fmt.Errorf("the request has %d bytes; %d are the most", len(request), maxRequest)
	}
	var r Request
	if err := json.Unmarshal(request, &r); err != nil {
		return nil, fmt.Errorf("the request is no JSON of a request: %w", err)
	}
	for _, o := range ops() {
		if o.name == r.Op {
			return o.answer(r)
		}
	}
	return nil, errors.New(`op: ` + strict.Hint(r.Op, Ops(), "they are read, schema, explain and others"))
}

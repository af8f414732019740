package answer

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mesh-intercept/intercept/kube/internal/answers"
)

// grace is how much longer than its own time a verb may take that tells of what happens.
const grace = 30 * time.Second

// takes is how long a part may take to be taken. Who does not take it has gone.
const takes = 10 * time.Second

// follow answers a question whose answer goes on. It ends when mesh-init does, or when who asks has gone: then mesh-init
// is told to end, and takes back what it has begun.
func (s Server) follow(v answers.Verb, w http.ResponseWriter, r *http.Request,
	allow func(*http.Request, answers.Access) error) (result string) {
	ctx, cancel := context.WithTimeout(r.Context(), answers.LongestFollow+grace)
	defer cancel()
	args, err := followed(v, r)
	if allowed := allow(r.WithContext(ctx), v.Access(r.PathValue("namespace"), r.PathValue("pod"))); allowed != nil {
		err = allowed
	}
	if err == nil {
		err = s.ready()
	}
	if err != nil {
		return write(w, nil, err)
	}
	select {
	case s.Follows <- struct{}{}:
		defer func() { <-s.Follows }()
	default: // who waits would not see what happens meanwhile
		return write(w, nil, answers.Refuse(http.StatusServiceUnavailable,
			"the agent follows as much as it may; try again when others have ended"))
	}
	p := &parts{w: w, control: http.NewResponseController(w), cancel: cancel}
	a, err := s.inPod(ctx, v, r, args, p.stream(func(text string) answers.Part { return answers.Part{Stdout: text} }),
		p.stream(func(text string) answers.Part { return answers.Part{Stderr: text} }))
	if err != nil && !p.begun {
		return write(w, nil, err)
	}
	switch {
	case r.Context().Err() != nil:
		return "answered" // who asked has gone
	case err != nil:
		return "failed" // without an end it is cut off
	}
	p.flush()
	p.send(answers.Part{End: &a})
	return "answered"
}

// followed are the arguments of a question whose answer goes on, and has an end.
func followed(v answers.Verb, r *http.Request) ([]string, error) {
	args, err := flags(v, r)
	during := r.URL.Query()["for"]
	if len(during) == 0 && v.Name == "watch" {
		args = append(args, "--for="+answers.LongestFollow.String())
	}
	for _, text := range during {
		if d, wrong := time.ParseDuration(text); wrong == nil && d > answers.LongestFollow {
			return nil, answers.Refuse(http.StatusBadRequest, "for: %s is longer than %s; take a shorter time", d,
				answers.LongestFollow)
		}
	}
	return args, err
}

// parts writes parts of an answer as they come.
type parts struct {
	w       http.ResponseWriter
	control *http.ResponseController
	cancel  context.CancelFunc

	mu      sync.Mutex
	begun   bool
	sent    int
	streams []*stream
}

// send sends a part. If it is not taken, or if it is too much in all, what makes parts is to end.
func (p *parts) send(part answers.Part) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.begun {
		p.w.Header().Set("Content-Type", "application/x-ndjson")
		p.begun = true
	}
	text, err := json.Marshal(part)
	if err == nil {
		err = p.control.SetWriteDeadline(time.Now().Add(takes))
	}
	if err == nil {
		_, err = p.w.Write(append(text, '\n'))
	}
	if err == nil {
		err = p.control.Flush()
	}
	if p.sent += len(text); err != nil || p.sent > maxFollow {
		p.cancel()
	}
}

// maxFollow is how much is sent of one answer, in bytes.
const maxFollow = 64 << 20

// flush sends what has no end of a line yet.
func (p *parts) flush() {
	for _, s := range p.streams {
		if text := s.rest.String(); text != "" {
			s.rest.Reset()
			p.send(s.part(text))
		}
	}
}

func (p *parts) stream(part func(string) answers.Part) *stream {
	s := &stream{p: p, part: part}
	p.streams = append(p.streams, s)
	return s
}

// stream is standard output or standard error. It sends whole lines.
type stream struct {
	p    *parts
	part func(text string) answers.Part
	rest bytes.Buffer
}

// longestLine is longer than any line of mesh-init's, in bytes.
const longestLine = 256 << 10

// Write implements [io.Writer].
func (s *stream) Write(b []byte) (int, error) {
	s.rest.Write(b)
	end := bytes.LastIndexByte(s.rest.Bytes(), '\n') + 1
	if end == 0 && s.rest.Len() > longestLine {
		end = s.rest.Len()
	}
	if end > 0 {
		s.p.send(s.part(strings.ToValidUTF8(string(s.rest.Next(end)), "?")))
	}
	return len(b), nil
}

package agent

import "sync"

// state is what is in the way of something, as the last look found it. The zero
// state is nil: nothing is.
type state struct {
	mu  sync.Mutex
	err error
}

// set reports whether it says something else than before.
func (s *state) set(err error) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed = (s.err == nil) != (err == nil) || err != nil && s.err.Error() != err.Error()
	s.err = err
	return changed
}

func (s *state) get() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

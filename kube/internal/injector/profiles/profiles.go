// Package profiles has the profiles that can be injected: those that come with the
// project, and those of ConfigMaps, which go before them.
package profiles

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/podspec/inject"
)

const (
	// Label is what a ConfigMap has that holds a profile. On a namespace it is the name
	// of the profile for its pods.
	Label = "intercept.mesh/profile"
	// Key is the ConfigMap's field with the profile.
	Key = "profile.yaml"
	// MaxText is how long a profile may be, in bytes: as long as a ConfigMap.
	MaxText = 1 << 20
)

// ErrUnknown reports that there is no profile of a name.
var ErrUnknown = errors.New("there is no such profile")

// Store has the profiles in force. Make one with [New]. It may be used from several
// goroutines.
type Store struct {
	shipped map[string]inject.Profile
	mu      sync.RWMutex
	own     map[string]entry // of ConfigMaps
}

// entry is a ConfigMap's profile: the last good one, and what is wrong with it now.
type entry struct {
	text    string
	profile *inject.Profile
	err     error
}

// New returns the profiles that come with the project.
func New() (*Store, error) {
	s := &Store{shipped: map[string]inject.Profile{}, own: map[string]entry{}}
	for _, name := range inject.Shipped() {
		p, err := inject.ParseProfile(name, []byte(inject.ShippedText(name)))
		if err != nil {
			return nil, fmt.Errorf("profile %s: %w", name, err)
		}
		s.shipped[name] = p
	}
	return s, nil
}

// Parse reads the profile of a ConfigMap. The errors joined name the field and the line.
func Parse(name string, data map[string]string) (inject.Profile, error) {
	text, ok := data[Key]
	if !ok {
		has := slices.Sorted(maps.Keys(data))
		return inject.Profile{}, fmt.Errorf("ConfigMap %s has no field %s, but %q; write the profile there", name, Key, has)
	}
	if len(text) > MaxText {
		return inject.Profile{}, fmt.Errorf("%s: %d bytes, and a profile may have %d", Key, len(text), MaxText)
	}
	p, err := inject.ParseProfile(Key, []byte(text))
	if err != nil {
		return inject.Profile{}, err
	}
	p.Name = name
	return p, nil
}

// Put takes the profile of a ConfigMap. A bad one is an error, and the one of that name
// that was in force stays. changed is false if the text is the one of the last time.
func (s *Store) Put(name string, data map[string]string) (changed bool, err error) {
	s.mu.RLock()
	was, there := s.own[name]
	s.mu.RUnlock()
	if there && was.text == data[Key] {
		return false, was.err
	}
	p, err := Parse(name, data)
	fresh := entry{text: data[Key], profile: &p, err: err}
	if err != nil {
		fresh.profile = was.profile
	}
	s.mu.Lock()
	s.own[name] = fresh
	s.mu.Unlock()
	return true, err
}

// Delete takes out what [Store.Put] has put in.
func (s *Store) Delete(name string) {
	s.mu.Lock()
	delete(s.own, name)
	s.mu.Unlock()
}

// Get returns the profile of a name.
func (s *Store) Get(name string) (inject.Profile, error) {
	s.mu.RLock()
	own, there := s.own[name]
	s.mu.RUnlock()
	switch p, shipped := s.shipped[name]; {
	case own.profile != nil:
		return *own.profile, nil
	case there: // it was bad from the beginning
		return inject.Profile{}, fmt.Errorf("profile %s: %w", name, own.err)
	case shipped:
		return p, nil
	}
	good := slices.DeleteFunc(s.Names(), func(name string) bool {
		s.mu.RLock()
		defer s.mu.RUnlock()
		own, there := s.own[name]
		return there && own.profile == nil
	})
	return inject.Profile{}, fmt.Errorf("profile %q: %w; there are: %s", strict.Clip(name), ErrUnknown,
		strings.Join(good, ", "))
}

// Names are those of all profiles.
func (s *Store) Names() []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := slices.Collect(maps.Keys(s.shipped))
	for name := range s.own {
		if _, shipped := s.shipped[name]; !shipped {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// Bad are the ConfigMaps whose profile is refused, each with what is wrong.
func (s *Store) Bad() map[string]error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	bad := map[string]error{}
	for name, e := range s.own {
		if e.err != nil {
			bad[name] = e.err
		}
	}
	return bad
}

package dataplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/iptables"
	"github.com/mesh-intercept/intercept/ruleset"
)

// InForce says what the rules in force were made of. Apply keeps it in the kernel, beside the rules.
type InForce struct {
	// Config is the configuration, but for what Omitted names: of that it has the default.
	Config intercept.Config `json:"config"`
	// At is when the rules were written, and By who wrote them ([Pod.By]).
	At time.Time `json:"at"`
	By string    `json:"by,omitempty"`
	// Backend is that of the rules.
	Backend Backend `json:"backend"`
	// Jumps is where in the built-in chains of iptables the jumps were put ([IPTables.Jumps]).
	Jumps iptables.Jumps `json:"jumps,omitempty"`
	// Origins says where values of Config came from ([Pod.Origins]), by their paths.
	Origins map[string]string `json:"origins,omitempty"`
	// Omitted are the paths of lists that were too long to be kept.
	Omitted []string `json:"omitted,omitempty"`
}

// ErrNotKept says that there are rules of ours, and nothing beside them that says what they were made of: an earlier
// version has written them, or a backend that has no room for it, as the minimal dialect of iptables has none.
var ErrNotKept = errors.New("the configuration of the rules in force is not kept beside them")

// kept is an InForce as it is written. What begins with the time can be compared by it.
type kept struct {
	At      string            `json:"at"`
	By      string            `json:"by,omitempty"`
	Jumps   iptables.Jumps    `json:"jumps,omitempty"`
	Set     map[string]string `json:"set,omitempty"` // by path, what differs from the default
	From    map[string]string `json:"from,omitempty"`
	Omitted []string          `json:"omitted,omitempty"`
}

// noteTime is always as long, so that later is greater.
const noteTime = "2006-01-02T15:04:05.000000000Z"

// maxKept is how long a value may be to be kept, and all of them together, in bytes. Whoever lists the rules has to read
// past them, and each apply has to write them.
const maxKept = 4096

// note is what is kept of a configuration.
func (p Pod) note(c intercept.Config, now time.Time) (string, error) {
	k := kept{At: now.UTC().Format(noteTime), By: p.By, Jumps: p.IPTables.Jumps, Set: map[string]string{}, From: map[string]string{}}
	left := maxKept
	settings := decode.Settings(decode.Clipped(c, maxKept), false)
	sort.SliceStable(settings, func(i, j int) bool { return len(settings[i].Text) < len(settings[j].Text) })
	for _, s := range settings {
		if len(s.Text) > left {
			k.Omitted = append(k.Omitted, s.Field.Path)
			continue
		}
		left -= len(s.Text)
		k.Set[s.Field.Path] = s.Text
		if from := p.Origins[s.Field.Path]; from != "" {
			k.From[s.Field.Path] = from
		}
	}
	text, err := json.Marshal(k)
	return string(text), err
}

// readKept reads a note.
func readKept(note string) (InForce, error) {
	var k kept
	if err := json.Unmarshal([]byte(note), &k); err != nil {
		return InForce{}, fmt.Errorf("what is kept beside the rules cannot be read: %w", err)
	}
	at, err := time.Parse(time.RFC3339, k.At)
	if err != nil {
		return InForce{}, fmt.Errorf("what is kept beside the rules cannot be read: %w", err)
	}
	fields := map[string]bool{}
	for _, f := range decode.Fields() {
		fields[f.Path] = true
	}
	f := InForce{Config: intercept.Default(), At: at, By: k.By, Jumps: k.Jumps, Origins: k.From, Omitted: k.Omitted}
	for path, text := range k.Set {
		if !fields[path] {
			return InForce{}, fmt.Errorf("what is kept beside the rules names a field %q that this version does not have: use "+
				"the version that wrote the rules (%s)", path, f.By)
		}
		if err := decode.SetField(&f.Config, path, text); err != nil {
			return InForce{}, fmt.Errorf("what is kept beside the rules cannot be read: %s: %w", path, err)
		}
	}
	return f, f.Config.Validate()
}

// InForce returns what the rules in force were made of. The errors are [ruleset.ErrNotIntercepted] where there are none,
// [ErrNotKept], or others that say what failed.
func (s *Session) InForce(ctx context.Context) (f InForce, err error) {
	err = s.do(ctx, func() error {
		f, err = s.space.kept(ctx)
		return err
	})
	return f, err
}

func (s *space) kept(ctx context.Context) (InForce, error) {
	holding, err := s.holding()
	if err != nil {
		return InForce{}, err
	}
	last, by := "", Backend("")
	for _, b := range holding {
		w, err := s.writer(b)
		if err != nil {
			return InForce{}, err
		}
		note, err := w.Note(ctx)
		if err != nil {
			return InForce{}, err
		}
		if note > last {
			last, by = note, b
		}
	}
	switch {
	case len(holding) == 0:
		return InForce{}, ruleset.ErrNotIntercepted
	case last == "":
		return InForce{}, ErrNotKept
	}
	f, err := readKept(last)
	f.Backend = by
	return f, err
}

// InForce is [Session.InForce] of a session of its own.
func (p Pod) InForce(ctx context.Context) (InForce, error) {
	return once(ctx, p, func(s *Session) (InForce, error) { return s.InForce(ctx) })
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/dataplane"
	"github.com/mesh-intercept/intercept/ruleset"
	"github.com/mesh-intercept/intercept/settings"
)

// wish is the configuration that is wanted of a namespace, or why nobody knows which.
type wish struct {
	config intercept.Config
	err    error
}

// read reads the wishes in a folder, by namespace.
func read(folder string) map[string]wish {
	paths, _ := filepath.Glob(filepath.Join(folder, "*.yaml")) // the pattern is good: it is no error
	wanted := map[string]wish{}
	for _, path := range paths {
		config, err := settings.LoadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // it has gone since
			continue
		}
		if err == nil {
			err = config.Validate()
		}
		wanted[strings.TrimSuffix(filepath.Base(path), ".yaml")] = wish{config, err}
	}
	return wanted
}

// operator makes namespaces what is wanted of them. The zero operator has made none so yet.
type operator struct {
	mine map[string]bool   // the namespaces that have rules of its
	said map[string]string // what has failed, and was said
}

// reconcile makes each namespace what is wanted, and says what it has done. It may be called as often as one likes:
// where all is as it should be, it reads the rules, changes nothing and says nothing. What has failed it says once,
// and tries again the next time. A wish that cannot be read changes nothing: the rules stay as they are.
func (o *operator) reconcile(ctx context.Context, wanted map[string]wish) (lines []string) {
	if o.mine == nil {
		o.mine, o.said = map[string]bool{}, map[string]string{}
	}
	all := maps.Clone(o.mine)
	for name := range wanted {
		all[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var done string
		wish, ok := wanted[name]
		err := wish.err
		switch {
		case err != nil:
		case ok:
			o.mine[name] = true
			done, err = keep(ctx, name, wish.config)
		default:
			if done, err = release(ctx, name); err == nil {
				delete(o.mine, name)
			}
		}
		if err == nil {
			delete(o.said, name)
		} else if done = err.Error(); done == o.said[name] {
			continue
		} else {
			o.said[name] = done
		}
		if done != "" {
			lines = append(lines, name+": "+done)
		}
	}
	return lines
}

// patience is how long one namespace may take.
const patience = 30 * time.Second

// keep puts a configuration in force in a namespace unless it is, and says what was amiss.
func keep(ctx context.Context, name string, config intercept.Config) (done string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	session, err := dataplane.Open(ctx, dataplane.Pod{NetNS: name, By: "operator"})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, session.Close()) }()

	var why string
	switch differences, err := session.Check(ctx, config); {
	case errors.Is(err, ruleset.ErrNotIntercepted):
		why = "there were no rules"
	case err != nil:
		return "", err
	case len(differences) == 0:
		return "", nil
	default:
		such := max(0, slices.IndexFunc(differences, func(d ruleset.Difference) bool { return d.Rule != "" }))
		why = fmt.Sprintf("%d differences, such as %s", len(differences), differences[such])
	}
	result, err := session.Apply(ctx, config) // all or nothing, with no moment without rules
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s: %s", result.Outcome, why), nil
}

// release takes the rules out of a namespace that nobody wants intercepted any more. One that is gone has none.
func release(ctx context.Context, name string) (done string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch removed, err := (dataplane.Pod{NetNS: name}).Remove(ctx); {
	case errors.Is(err, fs.ErrNotExist):
		return "gone", nil
	case err != nil || !removed:
		return "", err
	}
	return "removed", nil
}

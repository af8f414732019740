//go:build linux

package markroute

import (
	"errors"
	"slices"

	"github.com/mesh-intercept/intercept/ruleset"
)

// Add makes what is missing of what is wanted, reports whether that was anything, and returns what undoes it.
func (c *Conn) Add(w Want) (added bool, undo func() error, err error) {
	var undone []func() error
	undo = undoing(&undone, func(each func() error) error { return each() })
	for _, add := range []func() (bool, func() error, error){
		func() (bool, func() error, error) { return c.addMarked(w.Routes, w.Families) },
		func() (bool, func() error, error) { return c.addBound(w.Bound) },
		func() (bool, func() error, error) { return c.addSources(w.Sources) },
	} {
		some, undoThis, err := add()
		if err != nil {
			return false, nil, errors.Join(err, undo())
		}
		added, undone = added || some, append(undone, undoThis)
	}
	if added {
		c.Forget()
	}
	return added, undo, nil
}

// Keep removes what is ours and not wanted: all, if nothing is. It reports whether there was anything.
func (c *Conn) Keep(w Want) (removed bool, err error) {
	marked, err := c.keepMarked(w.Routes, w.Families)
	if err != nil {
		return marked, err
	}
	bound, err := c.keepBound(w.Bound)
	if err != nil {
		return marked || bound, err
	}
	sources, err := c.keepSources(w.Sources)
	return marked || bound || sources, err
}

// Check names what differs from what is wanted.
func (c *Conn) Check(w Want) ([]ruleset.Difference, error) {
	c.Forget()
	marked, err := c.checkMarked(w.Routes, w.Families)
	if err != nil {
		return nil, err
	}
	bound, err := c.checkBound(w.Bound)
	if err != nil {
		return nil, err
	}
	sources, err := c.checkSources(w.Sources)
	return slices.Concat(marked, bound, sources), err
}

// undoing returns what removes all that has been made by then, the last first.
func undoing[T any](made *[]T, remove func(T) error) func() error {
	return func() error {
		var errs []error
		for _, each := range slices.Backward(*made) {
			errs = append(errs, remove(each))
		}
		return errors.Join(errs...)
	}
}

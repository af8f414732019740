package keeper

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/kube/internal/conflist"
)

const (
	// window is how far back losses count.
	window = time.Minute
	// fighting is how many losses in it are no accident: a network plugin that
	// starts anew writes its file once or twice.
	fighting = 3
	// longest is the longest pause, and short enough to win soon after the
	// other writer has been told to stop.
	longest = 30 * time.Second
)

// losses are the times, of the last minute, at which our entry was found gone
// or changed.
type losses []time.Time

// add returns the losses of the last minute, with one more.
func (l losses) add(now time.Time) losses { return append(l.recent(now), now) }

func (l losses) recent(now time.Time) losses {
	return slices.DeleteFunc(slices.Clone(l), func(t time.Time) bool { return now.Sub(t) >= window })
}

// pause is how long to wait after the last loss before writing again: not at
// all at first, then twice as long each time.
func (l losses) pause(now time.Time, unit time.Duration) time.Duration {
	n := len(l.recent(now))
	if n < fighting {
		return 0
	}
	return min(longest, unit<<min(n-fighting, 16))
}

// report says what goes on, if it is a fight.
func (l losses) report(now time.Time, file, opponent string) error {
	n := len(l.recent(now))
	if n < fighting {
		return nil
	}
	return fmt.Errorf("another writer has taken our entry out of %s or changed it %d times in the last minute; %s", file,
		n, opponent)
}

// opponent guesses who the other writer is, and says what stops it.
func opponent(files map[string]conflist.File, primary string) string {
	types := conflist.Types(files[primary].Data)
	has := func(part string) bool {
		return strings.Contains(primary, part) ||
			slices.ContainsFunc(types, func(t string) bool { return strings.HasPrefix(t, part) })
	}
	switch {
	case has("cilium"):
		return "it is Cilium, which by default tolerates nobody in its list: set cni.exclusive=false in its Helm values"
	case has("multus"):
		return "it is Multus, which writes its list after the one it delegates to: set its --multus-conf-file to a file of " +
			"your own, or give Multus a network that names mesh-cni"
	case has("calico"):
		return "it is Calico's install-cni, which writes its file whenever its token is renewed: with the operator, set " +
			"spec.cni.type or its cniNetDir aside; else take mesh-cni into the template of its list (CNI_NETWORK_CONFIG)"
	}
	return fmt.Sprintf("find out what writes that file (its plugins are %s), and have it leave what it did not write",
		strings.Join(types, ", "))
}

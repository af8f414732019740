package agent

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/kube/internal/agent/kube"
)

// TestSeen: a pod that gets its network while the plugin is in place, and without a
// call of it, shows that the runtime reads another list; nothing else does.
func TestSeen(t *testing.T) {
	pod := func(name string, address bool) kube.Pod {
		return kube.Pod{Namespace: "default", Name: name, UID: "uid-" + name, RuntimeUID: "uid-" + name, HasAddress: address,
			IsNew: !address}
	}
	add := func(s *seen, name, uid string) {
		s.call(cniwire.Record{Command: "ADD", PodNamespace: "default", PodName: name, PodUID: uid})
	}
	for name, tt := range map[string]struct {
		steps  func(*seen)
		missed bool
	}{
		"no pod": {func(*seen) {}, false},
		"with its ADD": {func(s *seen) { s.pod(pod("a", false), true); add(s, "a", "uid-a"); s.pod(pod("a", true), true) },
			false},
		"by name alone": {func(s *seen) { s.pod(pod("a", false), true); add(s, "a", ""); s.pod(pod("a", true), true) },
			false},
		"older than us": {func(s *seen) { s.pod(pod("a", false), false); s.pod(pod("a", true), true) }, false},
		"listed at the start": {func(s *seen) {
			p := pod("a", false)
			p.IsNew = false
			s.pod(p, true)
			s.pod(pod("a", true), true)
		}, false},
		"there already":  {func(s *seen) { s.pod(pod("a", true), true) }, false},
		"without an ADD": {func(s *seen) { s.pod(pod("a", false), true); s.pod(pod("a", true), true) }, true},
		"another's ADD": {func(s *seen) { s.pod(pod("a", false), true); add(s, "b", "uid-b"); s.pod(pod("a", true), true) },
			true},
		"an ADD after that": {func(s *seen) {
			s.pod(pod("a", false), true)
			s.pod(pod("a", true), true)
			add(s, "b", "uid-b")
		}, false},
		"a STATUS after that": {func(s *seen) {
			s.pod(pod("a", false), true)
			s.pod(pod("a", true), true)
			s.call(cniwire.Record{Command: "STATUS"})
		}, false},
		"the host's network": {func(s *seen) {
			p := pod("a", false)
			p.Facts.HostNetwork = true
			s.pod(p, true)
			p.HasAddress = true
			s.pod(p, true)
		}, false},
		"it ends before": {func(s *seen) {
			p := pod("a", false)
			s.pod(p, true)
			p.Terminating = true
			s.pod(p, true)
			p.Terminating, p.HasAddress = false, true
			s.pod(p, true)
		}, false},
		"many others": {func(s *seen) {
			s.pod(pod("a", false), true)
			for i := range 100_000 {
				add(s, fmt.Sprint(i), fmt.Sprint("uid", i))
			}
			s.pod(pod("a", true), true)
			if len(s.added) > 50_000 {
				s.missed = fmt.Errorf("%d are remembered", len(s.added))
			}
		}, false},
	} {
		s := &seen{waiting: map[string]bool{}, added: map[string]bool{}}
		tt.steps(s)
		if err := s.err(); (err != nil) != tt.missed || err != nil &&
			!strings.Contains(err.Error(), "pod default/a has got") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

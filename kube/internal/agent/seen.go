package agent

import (
	"fmt"
	"sync"

	"github.com/mesh-intercept/intercept/internal/cniwire"
	"github.com/mesh-intercept/intercept/kube/internal/agent/kube"
)

// seen compares the pods that get a network on the node with the calls of the
// plugin: if it is not run for one, the runtime reads another list. It runs the
// plugin for every pod, and the plugin tells of every ADD.
type seen struct {
	mu sync.Mutex
	// waiting are pods that came without a network, and the plugin was in place by then.
	waiting map[string]bool // by UID
	added   map[string]bool // those that it was run for, by UID and by name
	missed  error
}

// pod takes what the API server says of one. inPlace is whether the plugin and its
// entry are.
func (s *seen) pod(p kube.Pod, inPlace bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case p.Facts.HostNetwork || p.Finished || p.Terminating:
		s.forget(p)
	case !p.HasAddress:
		if p.IsNew && inPlace {
			s.waiting[p.UID] = true
		}
	case s.waiting[p.UID]:
		if !s.added[p.RuntimeUID] && !s.added[p.String()] {
			s.missed = fmt.Errorf("pod %s has got its network, and mesh-cni was not run for it: the runtime reads another list "+
				"than that with our entry; see which one (crictl info), mount its directory and name it with --cni-conf-dir", p)
		}
		s.forget(p)
	}
}

func (s *seen) forget(p kube.Pod) {
	delete(s.waiting, p.UID)
	delete(s.added, p.RuntimeUID)
	delete(s.added, p.String())
}

// call takes what the plugin says of a call: the runtime has run it.
func (s *seen) call(r cniwire.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missed = nil
	if r.Command != "ADD" {
		return
	}
	const most = 10_000
	if len(s.added) > most { // most of them are of pods that are long gone
		s.waiting, s.added = map[string]bool{}, map[string]bool{}
	}
	s.added[r.PodUID], s.added[r.PodNamespace+"/"+r.PodName] = true, true
}

// err says why the plugin is not what the runtime runs, if it is known not to be.
func (s *seen) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missed
}

package agent

import (
	"fmt"
	"time"
)

// repairs are those of one pod, for which there are not to be too many events: who
// keeps taking its rules out would fill the cluster's memory with them.
type repairs struct {
	last   time.Time // of the last repair
	told   time.Time // of the last event
	events int       // in a row
	untold int       // repairs since the last event
}

// What is between two events of one pod: twice as long each time, at most an hour.
// A pod that was left alone for as long begins anew.
const shortestPause, longestPause = time.Minute, time.Hour

// again counts a repair, and says whether it is worth an event, and what to add to it.
func (r *repairs) again(now time.Time) (tell bool, more string) {
	if now.Sub(r.last) > longestPause {
		*r = repairs{}
	}
	r.last = now
	pause := longestPause
	if r.events < 7 {
		pause = min(longestPause, shortestPause<<max(0, r.events-1))
	}
	if r.events > 0 && now.Sub(r.told) < pause {
		r.untold++
		return false, ""
	}
	if r.untold > 0 {
		more = fmt.Sprintf(" It was repaired %d times since the last such event: find out what takes the rules out.",
			r.untold)
	}
	r.told, r.untold = now, 0
	r.events++
	return true, more
}

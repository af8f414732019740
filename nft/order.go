//go:build linux

package nft

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/beside"
)

// The kernel asks that NAT chain of a priority first that was registered last, and does not tell which one it is. Handles
// of tables tell which of two is newer, and those of chains only which of two in one table. So an apply notes beside its
// rules, as the comment of a chain, which chains at their priority there are: one that it does not name was registered
// later. Tables that sleep have none registered.

// olderMark begins the comment that names the chains which were registered before ours, and maxOlder is how long the
// comment of a chain may be.
const (
	olderMark = "older chains:"
	maxOlder  = 250
)

// older is the comment that names the NAT chains of others at the priority of ours. Where there are no tables of others
// there is none, for all that come will be newer than ours, and none where there are too many.
func (l *listing) older() string {
	awake, others := map[tableName]uint64{}, false
	for _, t := range l.tables {
		others = others || t.name != Table && !strings.HasPrefix(t.name, Table+"_") // ours, of a trace or a watch
		if !t.isDormant() {
			awake[t.tableName] = t.handle
		}
	}
	text := ""
	for _, c := range l.chains {
		if at, is := awake[c.in]; is && c.in.name != Table && c.isFirstNAT() {
			text += " " + chainID{at, c.handle}.String()
		}
	}
	if text = olderMark + cmp.Or(text, " none"); !others || len(text) > maxOlder {
		return ""
	}
	return text
}

func (c chainID) String() string { return fmt.Sprintf("%d.%d", c.table, c.chain) }

// registered says when another's NAT chain was registered, by what an apply has noted.
func (t kernelTable) registered(c firstChain) beside.Registered {
	if c.newer {
		return beside.AfterOurs
	}
	for _, own := range t.chains {
		if own.name != t.spec {
			continue
		}
		if noted, is := strings.CutPrefix(own.comment, olderMark); !is {
			break
		} else if slices.Contains(strings.Fields(noted), c.id.String()) {
			return beside.BeforeOurs
		}
		return beside.AfterOurs
	}
	return beside.PerhapsAfterOurs
}

// registration says of the NAT chains of others at the priority of ours when they were registered. Of those that are not
// in the map no packet meets ours, too, or there are none of ours.
func (conn *Conn) registration() (map[listedChain]beside.Registered, error) {
	st, _, err := conn.find()
	if err != nil {
		return nil, err
	}
	all := map[listedChain]beside.Registered{}
	for _, t := range st {
		for _, c := range t.first {
			key := listedChain{c.in, c.chain}
			if is := t.registered(c); all[key] == "" || is == beside.AfterOurs {
				all[key] = is
			}
		}
	}
	return all, nil
}

package watching

import (
	"github.com/mesh-intercept/intercept/internal/conntrack"
	"github.com/mesh-intercept/intercept/internal/sockets"
)

// senderOf finds whose socket sends so, in the network namespace of the calling thread. withProcess also looks for the
// process, which takes a walk over /proc.
func senderOf(e conntrack.Ends, withProcess bool) *Sender {
	s, ok, err := sockets.FindSender(e.Protocol, e.Src, e.Dst)
	// Of a socket that its process has closed the kernel says that it is user 0's (inet_diag(7): there is no inode).
	if err != nil || !ok || s.Inode == 0 && s.UID == 0 {
		return nil
	}
	out := &Sender{UID: s.UID, Mark: s.Mark}
	if withProcess && s.Inode != 0 {
		if p, found := sockets.Processes(map[uint64]bool{s.Inode: true})[s.Inode]; found {
			out.PID, out.Program, out.GID = p.PID, p.Name, &p.GID
		}
	}
	return out
}

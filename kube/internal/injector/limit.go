package injector

import (
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// maxBody is how large a request may be, in bytes: two objects of the API server's.
	maxBody = 4 << 20
	// maxBodies bounds all bodies that are read at once, and maxOfPeer those of one
	// peer, so that others have room. What is known of an object while it is changed takes
	// some ten times as much.
	maxBodies, maxOfPeer = 12 << 20, 8 << 20
	readTime             = 10 * time.Second
)

// budget lets requests in as far as their bodies have room together.
type budget struct {
	mu    sync.Mutex
	all   int64
	peers map[string]int64
}

func (b *budget) take(peer string, n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.all+n > maxBodies || b.peers[peer]+n > maxOfPeer {
		return false
	}
	b.all += n
	b.peers[peer] += n
	return true
}

func (b *budget) give(peer string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all -= n
	if b.peers[peer] -= n; b.peers[peer] == 0 {
		delete(b.peers, peer)
	}
}

// limited serves requests within limits of size, time and number. The API server tells
// its client of a refusal, who tries again.
func (b *budget) limited(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := r.ContentLength
		if n < 0 {
			n = maxBody // it does not say
		}
		if n > maxBody {
			http.Error(w, "the request is larger than the webhook takes", http.StatusRequestEntityTooLarge)
			return
		}
		peer, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			peer = r.RemoteAddr
		}
		if !b.take(peer, n) {
			http.Error(w, "too many requests at once; try again", http.StatusTooManyRequests)
			return
		}
		defer b.give(peer, n)
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readTime)) // of HTTP/2, too
		r.Body = http.MaxBytesReader(w, r.Body, n)
		h.ServeHTTP(w, r)
	})
}

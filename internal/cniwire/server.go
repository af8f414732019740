package cniwire

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Server answers a node's plugins.
type Server struct {
	// Pod says what is known of a pod. It may wait for the pod until ctx is
	// done, and then says that it was not found. Its error goes to the plugin.
	Pod func(ctx context.Context, pod Pod) (Facts, error)
	// Ready is nil when questions can be answered, or says why not.
	Ready func() error
	// Log takes a record. raw is the whole line, of which record is the part
	// that is known. It is called by many goroutines.
	Log func(record Record, raw json.RawMessage)
	// Timeout is how long a plugin may take to say what it wants, and to read
	// the answer. Zero: five seconds.
	Timeout time.Duration
	// Parallel is how many are served at a time; the others wait in the
	// socket's queue. Zero: 256.
	Parallel int
	// Hurry is how long one may say nothing while others wait. Zero: 100 ms. A
	// plugin says at once what it wants.
	Hurry time.Duration
}

// Serve answers until ctx is done, and returns nil then, after the answers that
// were under way. It closes the listener.
func (s Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer func() {
		if stop() {
			_ = l.Close()
		}
	}()
	s.Parallel, s.Timeout = cmp.Or(s.Parallel, 256), cmp.Or(s.Timeout, 5*time.Second)
	s.Hurry = cmp.Or(s.Hurry, 100*time.Millisecond)
	slots := make(chan struct{}, s.Parallel)
	quiet := &silent{since: map[net.Conn]time.Time{}}
	for {
		conn, err := l.Accept()
		if err == nil {
			select {
			case slots <- struct{}{}:
			default:
				quiet.hurry(s.Hurry)
				slots <- struct{}{}
			}
			quiet.add(conn, s.Timeout)
		}
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ECONNABORTED):
			// It passes when others are done.
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
			continue
		case err != nil:
			return fmt.Errorf("accept a plugin's connection: %w", err)
		}
		wg.Go(func() {
			defer func() { <-slots }()
			defer func() { _ = conn.Close() }()
			s.serve(ctx, conn, quiet)
		})
	}
}

// silent are the connections that have not said yet what they want, and since when.
type silent struct {
	mu    sync.Mutex
	since map[net.Conn]time.Time
}

// add adds one, which then has so long to speak.
func (q *silent) add(conn net.Conn, timeout time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.since[conn] = now
	_ = conn.SetDeadline(now.Add(timeout)) // that it has ended, reading will tell
}

// remove takes one out.
func (q *silent) remove(conn net.Conn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.since, conn)
}

// hurry leaves each no longer than so much since it came: others wait.
func (q *silent) hurry(most time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for conn, since := range q.since {
		_ = conn.SetReadDeadline(since.Add(most)) // as in add
	}
}

// serve answers one connection. What the plugin does not take any more is its
// own affair.
func (s Server) serve(ctx context.Context, conn net.Conn, quiet *silent) {
	var req Request
	err := known(conn)
	if err == nil {
		err = readMessage(conn, &req)
	}
	quiet.remove(conn)
	if err == nil {
		err = req.Validate()
	}
	if err == nil && req.Op == OpLog {
		var record Record
		if json.Unmarshal(req.Record, &record) == nil {
			s.Log(record, req.Record)
		}
		return
	}
	answer := Answer{Version: Version}
	if err == nil {
		answer.Facts, err = s.answer(whileThere(ctx, conn, req), req)
	}
	if err != nil {
		answer = Answer{Version: Version, Error: err.Error()}
	}
	if conn.SetDeadline(time.Now().Add(s.Timeout)) == nil {
		_ = writeMessage(conn, answer)
	}
}

// whileThere returns a context that also ends when who asks has gone, where the
// answer may have to wait. It ends at the latest with the connection.
func whileThere(ctx context.Context, conn net.Conn, req Request) context.Context {
	if req.Wait == 0 || conn.SetReadDeadline(time.Time{}) != nil {
		return ctx
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		_, _ = conn.Read(make([]byte, 1)) // nothing is to come but the end
	}()
	return ctx
}

func (s Server) answer(ctx context.Context, req Request) (Facts, error) {
	if err := s.Ready(); err != nil {
		return Facts{}, fmt.Errorf("not ready: %w", err)
	}
	if req.Op == OpPing {
		return Facts{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(req.Wait)*time.Millisecond)
	defer cancel()
	return s.Pod(ctx, req.Pod)
}

// Listen listens at a path that root alone can connect to. A socket that is
// there already is replaced in one step, so that there is always an agent to
// talk to while one takes over from another. Closing the listener removes the
// socket, unless it is another's by then.
func Listen(path string) (net.Listener, error) {
	if len(path) > MaxPath {
		return nil, fmt.Errorf("listen at %q: the path of a UNIX socket has at most %d bytes", path, MaxPath)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket == 0 {
		return nil, fmt.Errorf("listen at %s: there is something that is no socket; remove it, or choose another path", path)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	if info, err := os.Stat(dir); err == nil && info.Mode()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return nil, fmt.Errorf("listen at %s: everybody can replace what is in %s (%s); take the right to write from others",
			path, dir, info.Mode())
	}
	temporary := path + "." + strconv.Itoa(os.Getpid()%10_000_000)
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	lc := net.ListenConfig{Control: private}
	opened, err := lc.Listen(context.Background(), "unix", temporary)
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	l, ok := opened.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("listen at %s: a %T", path, opened), opened.Close())
	}
	l.SetUnlinkOnClose(false) // it knows the temporary name alone
	info, err := os.Lstat(temporary)
	if err == nil && info.Mode().Perm() != 0o600 {
		err = os.Chmod(temporary, 0o600) // another system's way
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen at %s: %w", path, errors.Join(err, os.Remove(temporary)))
	}
	return &listener{l, path, info}, nil
}

type listener struct {
	*net.UnixListener
	path string
	own  os.FileInfo
}

// ErrTakenOver reports a socket in whose place there is another's by now.
var ErrTakenOver = errors.New("another agent's socket is in its place")

// InPlace returns nil while plugins reach a listener that [Listen] returned at its
// path. It is [fs.ErrNotExist] if the socket has been removed, or [ErrTakenOver].
func InPlace(l net.Listener) error {
	ours, ok := l.(*listener)
	if !ok {
		return nil
	}
	now, err := os.Lstat(ours.path)
	switch {
	case err != nil:
		return fmt.Errorf("no plugin reaches the agent: %w", err)
	case !os.SameFile(now, ours.own):
		return fmt.Errorf("%s: %w", ours.path, ErrTakenOver)
	}
	return nil
}

// Close stops listening and removes the socket.
func (l *listener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.own) {
		_ = os.Remove(l.path) // a socket left over is replaced by the next agent
	}
	return l.UnixListener.Close()
}

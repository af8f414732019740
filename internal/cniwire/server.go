package cniwire

import (
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
	if s.Parallel == 0 {
		s.Parallel = 256
	}
	slots := make(chan struct{}, s.Parallel)
	for {
		slots <- struct{}{}
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ECONNABORTED):
			// It passes when others are done.
			<-slots
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
			s.serve(ctx, conn)
		})
	}
}

// serve answers one connection. What the plugin does not take any more is its
// own affair.
func (s Server) serve(ctx context.Context, conn net.Conn) {
	timeout := s.Timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	if conn.SetDeadline(time.Now().Add(timeout)) != nil {
		return
	}
	var req Request
	err := readMessage(conn, &req)
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
		answer.Facts, err = s.answer(ctx, req)
	}
	if err != nil {
		answer = Answer{Version: Version, Error: err.Error()}
	}
	if conn.SetDeadline(time.Now().Add(timeout)) == nil {
		_ = writeMessage(conn, answer)
	}
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
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	temporary := path + "." + strconv.Itoa(os.Getpid()%10_000_000)
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it knows the temporary name alone
	info, err := os.Lstat(temporary)
	if err == nil {
		err = os.Chmod(temporary, 0o600)
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

// Close stops listening and removes the socket.
func (l *listener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.own) {
		_ = os.Remove(l.path) // a socket left over is replaced by the next agent
	}
	return l.UnixListener.Close()
}

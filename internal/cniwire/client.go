package cniwire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// Ask asks the agent at a socket about a pod. It waits no longer than ctx, and
// asks the agent to wait for the pod until shortly before. The error is one of
// [ErrNoAgent], [ErrSlow], [ErrGarbled], [ErrRefused] and [ErrStranger], or ctx's.
func Ask(ctx context.Context, socket string, pod Pod) (Facts, error) {
	req := Request{Version: Version, Op: OpPod, Pod: pod}
	if deadline, ok := ctx.Deadline(); ok {
		// The answer that the pod is not known has to arrive in time, too.
		req.Wait = min(max(0, (time.Until(deadline)*3/4).Milliseconds()), maxWait.Milliseconds())
	}
	answer, err := exchange(ctx, socket, req)
	return answer.Facts, err
}

// AskNow is [Ask] of what the agent knows already.
func AskNow(ctx context.Context, socket string, pod Pod) (Facts, error) {
	answer, err := exchange(ctx, socket, Request{Version: Version, Op: OpPod, Pod: pod})
	return answer.Facts, err
}

// Ping reports whether the agent at a socket can answer questions, with the
// errors of [Ask].
func Ping(ctx context.Context, socket string) error {
	_, err := exchange(ctx, socket, Request{Version: Version, Op: OpPing})
	return err
}

// Send gives the agent a record, which is a JSON object like [Record]. It waits
// for nothing: what the socket does not take at once is lost, and the error one
// of [Ask]'s. It is on the way of every pod, and so without package net, which
// takes ten times as long for a program's first connection.
func Send(socket string, record []byte) error {
	message, err := encode(Request{Version: Version, Op: OpLog, Record: record})
	if err != nil {
		return err
	}
	return classify(context.Background(), socket, post(socket, message))
}

func exchange(ctx context.Context, socket string, req Request) (Answer, error) {
	if err := req.Validate(); err != nil {
		return Answer{}, err
	}
	conn, err := dial(ctx, socket)
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = conn.Close() }()
	if err := known(conn); err != nil {
		return Answer{}, fmt.Errorf("%s: %w", socket, err)
	}
	if err := writeMessage(conn, req); err != nil {
		return Answer{}, classify(ctx, socket, err)
	}
	var answer Answer
	if err := readMessage(conn, &answer); err != nil {
		return Answer{}, classify(ctx, socket, err)
	}
	switch {
	case answer.Version != Version:
		return Answer{}, fmt.Errorf(
			"%s: %w: it has version %d, and %d is spoken here: install mesh-cni and its agent of the same release", socket,
			ErrGarbled, answer.Version, Version)
	case answer.Error != "":
		return Answer{}, fmt.Errorf("%s: %w: %s", socket, ErrRefused, answer.Error)
	}
	return answer, nil
}

// dial connects, and sees to it that nothing outlasts ctx.
func dial(ctx context.Context, socket string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, classify(ctx, socket, err)
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			_ = conn.Close()
			return nil, classify(ctx, socket, err)
		}
	}
	return conn, nil
}

// classify says what an error of the exchange means.
func classify(ctx context.Context, socket string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), ctx.Err() != nil:
		return fmt.Errorf("%s: %w", socket, ErrSlow)
	case errors.Is(err, syscall.EAGAIN):
		// connect(2) on a socket whose queue of connections is full.
		return fmt.Errorf("%s: %w: too many are waiting for it", socket, ErrSlow)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w", socket, ErrNoAgent)
	case errors.Is(err, errMalformed), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%s: %w: %w", socket, ErrGarbled, err)
	}
	return fmt.Errorf("%s: %w: %w", socket, ErrNoAgent, err)
}

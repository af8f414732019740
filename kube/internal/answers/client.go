package answers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// Client asks an agent.
type Client struct {
	HTTP *http.Client
	// Base is the agent's URL, without a slash at the end.
	Base string
	// Token is sent with each question. Empty: none is.
	Token string
}

// AtSocket is a client of the agent of this node, by its UNIX socket.
func AtSocket(path string) Client {
	return Client{Base: "http://agent", HTTP: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}}
}

// maxAnswer is longer than any answer, in bytes.
const maxAnswer = 16 << 20

// ErrNoAnswer is around what is no answer of an agent.
var ErrNoAnswer = errors.New("what came back is not an agent's answer")

// Ask asks what a verb says of a pod. flags are the verb's, by name. The error is a [Refusal], [ErrNoAnswer], or one of
// package net/http.
func (c Client) Ask(ctx context.Context, v Verb, namespace, name string, flags map[string]string) (a Answer,
	err error) {
	err = c.do(ctx, v.Method(), pathOf(v, namespace, name), valuesOf(flags), &a)
	return a, err
}

// Follow asks a verb that tells of what happens, and hands each part to tell until the end, which it returns. It ends
// with ctx, too. The errors are those of [Client.Ask], and tell's.
func (c Client) Follow(ctx context.Context, v Verb, namespace, name string, flags map[string]string,
	tell func(Part) error) (a Answer, err error) {
	body, err := c.open(ctx, v.Method(), pathOf(v, namespace, name), valuesOf(flags))
	if err != nil {
		return a, err
	}
	defer func() { _ = body.Close() }() // it was only read
	for parts := json.NewDecoder(body); ; {
		var p Part
		if err := parts.Decode(&p); err != nil {
			return a, fmt.Errorf("the agent's answer was cut off: %w", err)
		}
		if p.End != nil {
			return *p.End, nil
		}
		if err := tell(p); err != nil {
			return a, err
		}
	}
}

func pathOf(v Verb, namespace, name string) string {
	return fmt.Sprintf("/v1/namespaces/%s/pods/%s/%s", url.PathEscape(namespace), url.PathEscape(name), v.Name)
}

func valuesOf(flags map[string]string) url.Values {
	values := url.Values{}
	for flag, text := range flags {
		values.Set(flag, text)
	}
	return values
}

// List asks for the pods of the node, or for those of a namespace. The errors are those of [Client.Ask].
func (c Client) List(ctx context.Context, namespace string) ([]Row, error) {
	values := url.Values{}
	if namespace != "" {
		values.Set("namespace", namespace)
	}
	var l List
	err := c.do(ctx, http.MethodGet, "/v1/pods", values, &l)
	return l.Pods, err
}

func (c Client) do(ctx context.Context, method, path string, values url.Values, into any) error {
	body, err := c.open(ctx, method, path, values)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return nil
}

// open asks, and returns the answer to be read, unless it is a refusal.
func (c Client) open(ctx context.Context, method, path string, values url.Values) (io.ReadCloser, error) {
	to := c.Base + path
	if len(values) > 0 {
		to += "?" + values.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, to, nil)
	if err != nil {
		return nil, err
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := c.HTTP.Do(req)
	if failed, is := errors.AsType[*url.Error](err); is {
		return nil, failed.Err // the URL says nothing to who asked
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	refusal := &Refusal{}
	switch {
	case json.Unmarshal(text, refusal) == nil && refusal.Message != "":
		return nil, refusal
	case resp.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%w: it does not know this question: it is of another version", ErrNoAnswer)
	}
	return nil, fmt.Errorf("%w: %s", ErrNoAnswer, resp.Status)
}

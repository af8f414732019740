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
	values := url.Values{}
	for flag, text := range flags {
		values.Set(flag, text)
	}
	path := fmt.Sprintf("/v1/namespaces/%s/pods/%s/%s", url.PathEscape(namespace), url.PathEscape(name), v.Name)
	err = c.do(ctx, v.Method(), path, values, &a)
	return a, err
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
	to := c.Base + path
	if len(values) > 0 {
		to += "?" + values.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, to, nil)
	if err != nil {
		return err
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := c.HTTP.Do(req)
	if failed, is := errors.AsType[*url.Error](err); is {
		return failed.Err // the URL says nothing to who asked
	}
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		refusal := &Refusal{}
		if json.Unmarshal(text, refusal) != nil || refusal.Message == "" {
			return fmt.Errorf("%w: %s", ErrNoAnswer, resp.Status)
		}
		return refusal
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return nil
}

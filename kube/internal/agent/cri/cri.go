// Package cri asks a node's container runtime which directories it reads: what is
// written elsewhere is nothing to it.
package cri

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"google.golang.org/protobuf/encoding/protowire"
)

// Reads are the directories of the node in which a runtime looks.
type Reads struct {
	ConfDir    string   // for lists
	PluginDirs []string // for plugins, in turn
}

// ErrUntold reports a runtime that does not say what it reads, as CRI-O does not.
var ErrUntold = errors.New("the runtime does not say which directories it reads")

// maxAnswer is more than any runtime has to say.
const maxAnswer = 4 << 20

// Ask asks the runtime that listens at a path (k8s.io/cri-api, runtime.v1,
// RuntimeService/Status with verbose set). gRPC is HTTP/2 with five bytes before each
// message; its module, and that of the interface, are dozens of others.
func Ask(ctx context.Context, socket string) (Reads, error) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
	defer transport.CloseIdleConnections()
	request := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1)
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request))), request...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://cri/runtime.v1.RuntimeService/Status",
		bytes.NewReader(frame))
	if err != nil {
		return Reads{}, err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return Reads{}, fmt.Errorf("ask the runtime: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // it was only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return Reads{}, fmt.Errorf("ask the runtime: %w", err)
	}
	if status := trailer(resp, "Grpc-Status"); status != "0" {
		why, err := url.PathUnescape(trailer(resp, "Grpc-Message"))
		if err != nil {
			why = trailer(resp, "Grpc-Message")
		}
		return Reads{}, fmt.Errorf("ask the runtime: status %s: %s", status, why)
	}
	const prefix = 5
	if len(body) < prefix {
		return Reads{}, fmt.Errorf("%w: its answer has %d bytes", ErrUntold, len(body))
	}
	return parse(body[prefix:])
}

func trailer(resp *http.Response, name string) string {
	if v := resp.Trailer.Get(name); v != "" {
		return v
	}
	return resp.Header.Get(name)
}

// parse reads a StatusResponse, whose second field is a map of texts. containerd has
// the state of its CNI library under cniconfig (go-cni, ConfigResult).
func parse(answer []byte) (Reads, error) {
	for len(answer) > 0 {
		number, kind, n := protowire.ConsumeTag(answer)
		if n < 0 {
			return Reads{}, fmt.Errorf("%w: %w", ErrUntold, protowire.ParseError(n))
		}
		answer = answer[n:]
		if n = protowire.ConsumeFieldValue(number, kind, answer); n < 0 {
			return Reads{}, fmt.Errorf("%w: %w", ErrUntold, protowire.ParseError(n))
		}
		if number == 2 && kind == protowire.BytesType {
			pair, _ := protowire.ConsumeBytes(answer)
			if key, value := entry(pair); key == "cniconfig" {
				return ofContainerd(value)
			}
		}
		answer = answer[n:]
	}
	return Reads{}, ErrUntold
}

// entry is one of a map of texts.
func entry(pair []byte) (key string, value []byte) {
	for len(pair) > 0 {
		number, kind, n := protowire.ConsumeTag(pair)
		if n < 0 || kind != protowire.BytesType {
			return key, value
		}
		b, size := protowire.ConsumeBytes(pair[n:])
		if size < 0 {
			return key, value
		}
		if number == 1 {
			key = string(b)
		} else {
			value = b
		}
		pair = pair[n+size:]
	}
	return key, value
}

func ofContainerd(text []byte) (Reads, error) {
	var says struct {
		PluginDirs    []string
		PluginConfDir string
	}
	if err := json.Unmarshal(text, &says); err != nil {
		return Reads{}, fmt.Errorf("%w: %w", ErrUntold, err)
	}
	if says.PluginConfDir == "" || len(says.PluginDirs) == 0 {
		return Reads{}, ErrUntold
	}
	return Reads{says.PluginConfDir, says.PluginDirs}, nil
}

package reach

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/mesh-intercept/intercept/kube/internal/answers"
)

// Client asks an agent. Its errors say which right is missing, in the API server's words.
func (c *Cluster) Client(ctx context.Context, a Agent) (answers.Client, error) {
	token, err := c.token(ctx)
	if err != nil {
		return answers.Client{}, err
	}
	return answers.Client{Base: "https://agent", Token: token, HTTP: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return c.forward(a) },
		// The API server says that this is the agent's pod, and the token is good for questions to agents alone.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}}, nil
}

// forward connects to an agent's port through the API server. Nothing listens here for that.
func (c *Cluster) forward(a Agent) (net.Conn, error) {
	failed := func(err error) (net.Conn, error) {
		return nil, fmt.Errorf("port-forward to the agent %s/%s: %w", c.o.Namespace, a.Name, err)
	}
	to := c.core.Post().Namespace(c.o.Namespace).Resource("pods").Name(a.Name).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return failed(err)
	}
	byWebSocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(to, c.config)
	if err != nil {
		return failed(err)
	}
	// As kubectl does: older API servers, and proxies, know one of them alone.
	dialer := portforward.NewFallbackDialerForStreaming(byWebSocket,
		spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, to),
		func(err error) bool { return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err) })
	conn, protocol, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return failed(err)
	}
	if protocol != portforward.PortForwardProtocolV1Name {
		return failed(errors.Join(fmt.Errorf("the API server speaks %q", protocol), conn.Close()))
	}
	stream := func(kind string) (httpstream.Stream, error) {
		header := http.Header{}
		header.Set(corev1.StreamType, kind)
		header.Set(corev1.PortHeader, c.o.Port)
		header.Set(corev1.PortForwardRequestIDHeader, "0")
		return conn.CreateStream(header)
	}
	errs, err := stream(corev1.StreamTypeError)
	if err == nil {
		err = errs.Close() // nothing is said there from here
	}
	if err != nil {
		return failed(errors.Join(err, conn.Close()))
	}
	data, err := stream(corev1.StreamTypeData)
	if err != nil {
		return failed(errors.Join(err, conn.Close()))
	}
	said := make(chan error, 1)
	go func() {
		text, err := io.ReadAll(io.LimitReader(errs, 1<<10))
		if len(text) > 0 {
			err = errors.New(string(text))
		}
		said <- err
		if err != nil {
			_ = conn.Close() // so that nobody waits for data
		}
	}()
	return &forwarded{Stream: data, conn: conn, said: said}, nil
}

// forwarded is a connection through a port-forward.
type forwarded struct {
	httpstream.Stream
	conn httpstream.Connection
	said chan error
}

// Read implements [net.Conn].
func (f *forwarded) Read(p []byte) (int, error) {
	n, err := f.Stream.Read(p)
	return n, f.reason(err)
}

// Write implements [net.Conn].
func (f *forwarded) Write(p []byte) (int, error) {
	n, err := f.Stream.Write(p)
	return n, f.reason(err)
}

// reason puts what kubelet says of a connection that fails in the place of its end.
func (f *forwarded) reason(err error) error {
	if err == nil {
		return nil
	}
	select {
	case said := <-f.said:
		f.said <- said
		if said != nil {
			return fmt.Errorf("the node could not connect to the agent: %w", said)
		}
	case <-time.After(100 * time.Millisecond): // it says nothing
	}
	return err
}

// Close implements [net.Conn].
func (f *forwarded) Close() error { return f.conn.Close() }

// What else [net.Conn] has. A deadline is the context's, at whose end the connection is closed.
func (f *forwarded) LocalAddr() net.Addr                { return address{} }
func (f *forwarded) RemoteAddr() net.Addr               { return address{} }
func (f *forwarded) SetDeadline(time.Time) error        { return nil }
func (f *forwarded) SetReadDeadline(time.Time) error    { return nil }
func (f *forwarded) SetWriteDeadline(t time.Time) error { return nil }

type address struct{}

func (address) Network() string { return "port-forward" }
func (address) String() string  { return "agent" }

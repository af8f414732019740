package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/mesh-intercept/intercept/podspec/probes"
)

const (
	// maxBody is what kubelet reads of an answer (pkg/probe/http).
	maxBody = 10 << 10
	// maxAnswerHeaders is more than an app's answer to a probe needs.
	maxAnswerHeaders = 64 << 10
)

// ask carries a probe out, as kubelet would (pkg/kubelet/prober), until ctx is
// done. agent is the User-Agent of a probe that names none.
func (d dialer) ask(ctx context.Context, p probes.Probe, agent string) error {
	switch p.Handler {
	case probes.HTTPGet:
		return d.askHTTP(ctx, p, agent)
	case probes.GRPC:
		return d.askGRPC(ctx, p, agent)
	case probes.TCPSocket:
	}
	conn, err := d.dial(ctx, strconv.Itoa(int(p.Port)))
	if err != nil {
		return err
	}
	return conn.Close()
}

// unverified is how kubelet probes over TLS: a pod has no name to verify.
func unverified() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true}
}

// client returns one that makes a new connection each time, to the pod alone.
func (d dialer) client(p probes.Probe) *http.Client {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return d.dial(ctx, port) // a redirect may name another port
		},
		TLSClientConfig:        unverified(),
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxAnswerHeaders,
		ForceAttemptHTTP2:      true,
	}
	if p.HTTP2 && p.Scheme == "HTTP" {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: t, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		switch {
		case req.URL.Hostname() != via[0].URL.Hostname():
			return http.ErrUseLastResponse // kubelet takes it for an answer
		case len(via) >= 10:
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
}

func (d dialer) askHTTP(ctx context.Context, p probes.Probe, agent string) error {
	req, err := d.request(ctx, p, agent)
	if err != nil {
		return err
	}
	client := d.client(p)
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if _, tlsless := errors.AsType[tls.RecordHeaderError](err); p.Kind.IsHook() &&
		(tlsless || errors.Is(err, http.ErrSchemeMismatch)) {
		// kubelet asks again for hooks alone (pkg/kubelet/lifecycle).
		req = req.Clone(ctx)
		req.URL.Scheme = "http"
		req.Header.Del("Authorization")
		res, err = client.Do(req)
	}
	if err != nil {
		return withoutURL(err)
	}
	defer func() { _ = res.Body.Close() }() // it has been read as far as it is read
	if p.Kind.IsHook() {
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxBody)) // any answer will do
		return nil
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, maxBody)); err != nil {
		return fmt.Errorf("status %d, and its body ended early: %w", res.StatusCode, err)
	}
	if res.StatusCode < 200 || res.StatusCode >= 400 {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}

// request makes the one that kubelet would send (pkg/probe/http/request.go).
func (d dialer) request(ctx context.Context, p probes.Probe, agent string) (*http.Request, error) {
	u, err := url.Parse(p.Path)
	if err != nil {
		u = &url.URL{Path: p.Path}
	}
	u.Scheme, u.Host = strings.ToLower(p.Scheme), d.address(p.Port)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range p.Headers {
		req.Header.Add(h.Name, h.Value)
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", agent)
	}
	if accept, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	} else if accept[0] == "" {
		req.Header.Del("Accept")
	}
	req.Host = req.Header.Get("Host")
	return req, nil
}

// withoutURL leaves out what the reader of a reason knows, or does not need to.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

func (d dialer) askGRPC(ctx context.Context, p probes.Probe, agent string) error {
	creds := insecure.NewCredentials()
	if p.TLS {
		creds = credentials.NewTLS(unverified())
	}
	port := strconv.Itoa(int(p.Port))
	conn, err := grpc.NewClient("passthrough:///"+d.address(p.Port),
		grpc.WithTransportCredentials(creds), grpc.WithUserAgent(agent), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerHeaders)),
		grpc.WithMaxHeaderListSize(maxAnswerHeaders),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return d.dial(ctx, port) }))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // it has been used
	res, err := health.NewHealthClient(conn).Check(ctx, &health.HealthCheckRequest{Service: p.Service})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return errors.New("the server does not implement gRPC's health protocol (grpc.health.v1.Health)")
	case err != nil:
		return err
	case res.GetStatus() != health.HealthCheckResponse_SERVING:
		return fmt.Errorf("gRPC's health protocol says %s", res.GetStatus())
	}
	return nil
}

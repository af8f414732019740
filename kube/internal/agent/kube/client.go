// Package kube is what the node's agent has to do with the API server: it
// watches the pods of its node, writes events about them, and takes a startup
// taint from the node.
package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"

	"github.com/mesh-intercept/intercept/internal/infile"
)

// Where kubelet puts the credentials of a pod's service account: into the
// pod's memory, not onto the host's disk.
const (
	TokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	CAFile    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
)

// Access says how to reach the API server.
type Access struct {
	// Server is its URL. Empty: as kubelet's environment variables say.
	Server string
	// TokenFile is read again as kubelet renews it.
	TokenFile string
	CAFile    string
	// UserAgent is what the server's log calls us.
	UserAgent string
}

// Client speaks to the API server. It has no more of the API than it uses.
type Client struct {
	core, events                  rest.Interface
	authentication, authorization rest.Interface
	params                        runtime.ParameterCodec
	timeout                       time.Duration // of a single request; watches have none
}

// ErrNoServer reports that nobody said where the API server is.
var ErrNoServer = errors.New(
	"KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is no pod; name the API server with " +
		"--api-server")

// maxSecret is more than a token, or a bundle of certificates, has: a Secret's size.
const maxSecret = 1 << 20

// NewClient makes a client. It does not call the server.
func NewClient(a Access) (*Client, error) {
	if a.Server == "" {
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return nil, ErrNoServer
		}
		a.Server = "https://" + net.JoinHostPort(host, port)
	}
	// client-go would wait for a FIFO.
	if _, err := infile.Read(a.TokenFile, maxSecret); err != nil {
		return nil, fmt.Errorf("the service account's token: %w", err)
	}
	if a.CAFile != "" {
		if _, err := infile.Read(a.CAFile, maxSecret); err != nil {
			return nil, fmt.Errorf("the API server's certificate authority: %w", err)
		}
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), eventsv1.AddToScheme(scheme),
		authenticationv1.AddToScheme(scheme), authorizationv1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	codecs := serializer.NewCodecFactory(scheme)
	base := rest.Config{
		Host: a.Server, TLSClientConfig: rest.TLSClientConfig{CAFile: a.CAFile}, UserAgent: a.UserAgent,
		ContentConfig: rest.ContentConfig{NegotiatedSerializer: codecs.WithoutConversion()},
	}
	// rest's own BearerTokenFile keeps a token for most of a minute even if the
	// server refuses it. This one reads the file again at once.
	base.Wrap(transport.ResettableTokenSourceWrapTransport(transport.NewCachedFileTokenSource(a.TokenFile)))
	c := &Client{params: runtime.NewParameterCodec(scheme), timeout: 15 * time.Second}
	for _, g := range []struct {
		client *rest.Interface
		gv     schema.GroupVersion
	}{
		{&c.core, corev1.SchemeGroupVersion}, {&c.events, eventsv1.SchemeGroupVersion},
		{&c.authentication, authenticationv1.SchemeGroupVersion}, {&c.authorization, authorizationv1.SchemeGroupVersion},
	} {
		config := base
		config.APIPath, config.GroupVersion = "/apis", &g.gv
		if g.gv.Group == "" {
			config.APIPath = "/api"
		}
		client, err := rest.RESTClientFor(&config)
		if err != nil {
			return nil, fmt.Errorf("API server %s: %w", a.Server, err)
		}
		*g.client = client
	}
	return c, nil
}

func (c *Client) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.timeout)
}

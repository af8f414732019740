package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Name is that of an object in a namespace.
type Name struct{ Namespace, Name string }

// String returns namespace/name.
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// ErrForbidden reports that the API server does not answer us, or not this.
var ErrForbidden = errors.New("the API server refuses to say")

// HasDaemonSet reports whether there is a DaemonSet that is not being deleted, alone or
// with its namespace, which may lose the DaemonSet's pods before the DaemonSet. Who may
// not read the namespace hears of the DaemonSet alone.
func (c *Client) HasDaemonSet(ctx context.Context, n Name) (bool, error) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	stays, err := c.stays(ctx, "/apis/apps/v1/namespaces", n.Namespace, "daemonsets", n.Name)
	if err != nil || !stays {
		return false, err
	}
	stays, err = c.stays(ctx, "/api/v1/namespaces", n.Namespace)
	if errors.Is(err, ErrForbidden) {
		return true, nil
	}
	return stays, err
}

// stays reports whether an object is there and not being deleted. Of its whole group this
// is all that is used.
func (c *Client) stays(ctx context.Context, path ...string) (bool, error) {
	text, err := c.core.Get().AbsPath(path...).Do(ctx).Raw()
	name := strings.Join(path[1:], "/")
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return false, fmt.Errorf("%s: %w: %w", name, ErrForbidden, err)
	case err != nil:
		return false, fmt.Errorf("%s: %w", name, err)
	}
	var object struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(text, &object); err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	return object.Metadata.DeletionTimestamp == nil, nil
}

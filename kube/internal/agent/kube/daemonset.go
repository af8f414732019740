package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Name is that of an object in a namespace.
type Name struct{ Namespace, Name string }

// String returns namespace/name.
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// ErrForbidden reports that the API server does not answer us, or not this.
var ErrForbidden = errors.New("the API server refuses to say")

// HasDaemonSet reports whether there is a DaemonSet that is not being deleted.
func (c *Client) HasDaemonSet(ctx context.Context, n Name) (bool, error) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	// Of the whole group this is all that is used.
	text, err := c.core.Get().AbsPath("/apis/apps/v1/namespaces", n.Namespace, "daemonsets", n.Name).Do(ctx).Raw()
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return false, fmt.Errorf("DaemonSet %s: %w: %w", n, ErrForbidden, err)
	case err != nil:
		return false, fmt.Errorf("DaemonSet %s: %w", n, err)
	}
	var object struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(text, &object); err != nil {
		return false, fmt.Errorf("DaemonSet %s: %w", n, err)
	}
	return object.Metadata.DeletionTimestamp == nil, nil
}

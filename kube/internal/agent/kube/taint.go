package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func uid(s string) types.UID { return types.UID(s) }

// RemoveTaint takes the taints with a key from a node, and reports whether
// there were any.
func (c *Client) RemoveTaint(ctx context.Context, node, key string) (removed bool, err error) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	n := &corev1.Node{}
	if err := c.core.Get().Resource("nodes").Name(node).Do(ctx).Into(n); err != nil {
		return false, fmt.Errorf("taint %s: read node %s: %w", key, node, err)
	}
	patch := withoutTaint(n.Spec.Taints, key)
	if patch == nil {
		return false, nil
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return false, err
	}
	if err := c.core.Patch(types.JSONPatchType).Resource("nodes").Name(node).Body(body).Do(ctx).Error(); err != nil {
		return false, fmt.Errorf("taint %s: change node %s: %w", key, node, err)
	}
	return true, nil
}

// patchStep is a step of a JSON patch (RFC 6902).
type patchStep struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// withoutTaint is the patch that removes taints with a key, or nil. It applies
// only to a node that has the taints it was made for: another may change them
// at the same time.
func withoutTaint(taints []corev1.Taint, key string) []patchStep {
	patch := []patchStep{{"test", "/spec/taints", taints}}
	for i, taint := range slices.Backward(taints) {
		if taint.Key == key {
			patch = append(patch, patchStep{Op: "remove", Path: fmt.Sprintf("/spec/taints/%d", i)})
		}
	}
	if len(patch) == 1 {
		return nil
	}
	return patch
}

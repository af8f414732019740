package reach

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mesh-intercept/intercept/kube/internal/answers"
)

// InContainer has mesh-init carry out a verb in an ephemeral container of a pod. The container ends with it; that it
// was there stays in the pod. Its output is all in Stdout.
func (c *Cluster) InContainer(ctx context.Context, pod *corev1.Pod, image string, args []string) (answers.Answer,
	error) {
	a := answers.Answer{Row: answers.Row{Namespace: pod.Namespace, Name: pod.Name, Node: pod.Spec.NodeName}}
	name := "intercept-" + strings.ToLower(rand.Text()[:6])
	container := containerOf(name, image, args)
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"ephemeralContainers": []any{container}}})
	if err != nil {
		return a, err
	}
	on := func(verb string) error {
		return fmt.Errorf("%s an ephemeral container of pod %s/%s: %w", verb, pod.Namespace, pod.Name, err)
	}
	err = c.core.Patch(types.StrategicMergePatchType).Namespace(pod.Namespace).Resource("pods").Name(pod.Name).
		SubResource("ephemeralcontainers").Body(patch).Do(ctx).Error()
	if err != nil {
		return a, on("add")
	}
	ended, err := c.await(ctx, pod, name)
	if err != nil {
		return a, on("wait for")
	}
	text, err := c.core.Get().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("log").
		Param("container", name).DoRaw(ctx)
	if err != nil {
		return a, on("read the log of")
	}
	a.Exit, a.Stdout = int(ended.ExitCode), string(text)
	return a, nil
}

// containerOf is the container: root, with what it takes to read rules and to connect as others, and no more.
func containerOf(name, image string, args []string) corev1.EphemeralContainer {
	root, no := int64(0), false
	return corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: name, Image: image, Command: append([]string{"/mesh-init"}, args...),
		Env: []corev1.EnvVar{{Name: "NO_COLOR", Value: "1"}},
		SecurityContext: &corev1.SecurityContext{RunAsUser: &root, RunAsGroup: &root, RunAsNonRoot: &no,
			AllowPrivilegeEscalation: &no,
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"},
				Add: []corev1.Capability{"NET_ADMIN", "NET_RAW", "SETUID", "SETGID"}}},
	}}
}

// await waits until a container has ended.
func (c *Cluster) await(ctx context.Context, pod *corev1.Pod, name string) (*corev1.ContainerStateTerminated, error) {
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := c.Pod(ctx, pod.Namespace, pod.Name)
		if err != nil {
			return nil, err
		}
		for _, s := range now.Status.EphemeralContainerStatuses {
			switch {
			case s.Name != name:
			case s.State.Terminated != nil:
				return s.State.Terminated, nil
			case s.State.Waiting != nil && isFinal(s.State.Waiting.Reason):
				return nil, errors.New(s.State.Waiting.Reason + ": " + s.State.Waiting.Message)
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// isFinal reports whether a container that waits for this waits in vain (kubelet's pkg/kubelet/images and
// kuberuntime).
func isFinal(reason string) bool {
	switch reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError",
		"CreateContainerError", "RunContainerError":
		return true
	}
	return false
}

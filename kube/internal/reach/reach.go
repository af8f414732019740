// Package reach reaches the agents of a cluster from outside, by the API server alone: it finds the agent of a node,
// makes a token for it, and asks it through a port-forward. Where there is no agent it has a container in the pod look.
package reach

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/mesh-intercept/intercept/kube/internal/answers"
)

// Options say where agents are.
type Options struct {
	// Namespace and Selector are those of the agents' pods.
	Namespace, Selector string
	// Port is the port of the agents' --answers.
	Port string
	// Account is the service account in whose name they are asked, in Namespace or as NAMESPACE/NAME.
	Account string
}

// Defaults are those of deploy/mesh-cni-agent.yaml.
func Defaults() Options {
	return Options{Namespace: "mesh-system", Selector: "app=mesh-cni-agent", Port: "9993", Account: "kubectl-intercept"}
}

// Cluster is a cluster and its agents. Make it with [New].
type Cluster struct {
	o      Options
	config *rest.Config
	core   rest.Interface
	params runtime.ParameterCodec
	token  func(context.Context) (string, error)
}

// New does not call the API server yet.
func New(config *rest.Config, o Options) (*Cluster, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), authenticationv1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	core := rest.CopyConfig(config)
	core.APIPath, core.GroupVersion = "/api", &corev1.SchemeGroupVersion
	core.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	client, err := rest.RESTClientFor(core)
	if err != nil {
		return nil, err
	}
	c := &Cluster{o: o, config: core, core: client, params: runtime.NewParameterCodec(scheme)}
	var once sync.Once
	var token string
	c.token = func(ctx context.Context) (string, error) {
		once.Do(func() { token, err = c.makeToken(ctx) })
		return token, err
	}
	return c, nil
}

// tokenFor is for how long a token is good: the shortest that the API server makes.
const tokenFor = 10 * time.Minute

// makeToken makes a token that agents alone take.
func (c *Cluster) makeToken(ctx context.Context) (string, error) {
	namespace, name, both := strings.Cut(c.o.Account, "/")
	if !both {
		namespace, name = c.o.Namespace, namespace
	}
	seconds := int64(tokenFor.Seconds())
	request := &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{answers.Audience}, ExpirationSeconds: &seconds}}
	err := c.core.Post().Namespace(namespace).Resource("serviceaccounts").Name(name).SubResource("token").Body(request).
		Do(ctx).Into(request)
	if err != nil {
		return "", fmt.Errorf("make a token to ask agents with, of service account %s/%s (--account): %w", namespace,
			name, err)
	}
	return request.Status.Token, nil
}

// Pod returns a pod.
func (c *Cluster) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	return pod, c.core.Get().Namespace(namespace).Resource("pods").Name(name).Do(ctx).Into(pod)
}

// Names returns the names of a namespace's pods.
func (c *Cluster) Names(ctx context.Context, namespace string) ([]string, error) {
	return c.names(ctx, "pods", namespace)
}

// Nodes returns the names of the nodes.
func (c *Cluster) Nodes(ctx context.Context) ([]string, error) { return c.names(ctx, "nodes", "") }

// names asks for no more of objects than their metadata.
func (c *Cluster) names(ctx context.Context, resource, namespace string) ([]string, error) {
	list := &metav1.PartialObjectMetadataList{}
	err := c.core.Get().NamespaceIfScoped(namespace, namespace != "").Resource(resource).
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").Do(ctx).Into(list)
	names := make([]string, len(list.Items))
	for i, o := range list.Items {
		names[i] = o.Name
	}
	return names, err
}

// Agent is an agent's pod.
type Agent struct{ Name, Node string }

// Agents returns the agents that run: of a node, or of all if that is empty.
func (c *Cluster) Agents(ctx context.Context, node string) ([]Agent, error) {
	o := metav1.ListOptions{LabelSelector: c.o.Selector}
	if node != "" {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
	}
	list := &corev1.PodList{}
	err := c.core.Get().Namespace(c.o.Namespace).Resource("pods").VersionedParams(&o, c.params).Do(ctx).Into(list)
	if err != nil {
		return nil, fmt.Errorf("look for agents in namespace %s: %w", c.o.Namespace, err)
	}
	var all []Agent
	for _, p := range list.Items {
		if p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil && (node == "" || p.Spec.NodeName == node) {
			all = append(all, Agent{p.Name, p.Spec.NodeName})
		}
	}
	return all, nil
}

// Package admit answers the API server: what becomes of a pod that is created, and
// whether a workload or a profile that somebody writes is right.
package admit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/internal/yamledit"
	"github.com/mesh-intercept/intercept/kube/internal/injector/profiles"
	"github.com/mesh-intercept/intercept/podspec"
	"github.com/mesh-intercept/intercept/podspec/inject"
)

const (
	// LabelInject is the label of a namespace whose pods are injected (Enabled), and of
	// pods that are, or are not ("true", "false").
	LabelInject = podspec.DefaultPrefix + "/" + podspec.Inject
	// Enabled is the value of LabelInject on a namespace.
	Enabled = "enabled"
	// LabelProfile of a namespace names the profile of its pods.
	LabelProfile = profiles.Label

	annotationProfile = podspec.DefaultPrefix + "/" + podspec.Profile
	labelPodSecurity  = "pod-security.kubernetes.io/enforce"

	// maxObject is how large an object may be, in bytes of JSON: etcd takes 1.5 MiB.
	maxObject = 2 << 20
	// maxDepth is how deep one may be nested. Kubernetes' own types need some 20.
	maxDepth = 100
	// maxMessage is how long a refusal may be. Twenty mistakes take less.
	maxMessage = 8 << 10
)

// Result says what became of a request, in a word.
type Result string

// The results.
const (
	Injected  Result = "injected"
	Skipped   Result = "skipped"
	Refused   Result = "refused"
	Validated Result = "validated"
)

// Words for why a request was refused, or a pod skipped; inject.Result.SkippedBy has
// the others.
const (
	ByRequest = "request" // it cannot be read
	ByProfile = "profile" // there is none, or none that is good
	ByPod     = "pod"     // the pod or its annotations
	ByCluster = "cluster" // it does not say what has to be known
	Excluded  = "excluded"
)

// Owner is what has made a pod. The zero Owner is nobody.
type Owner struct {
	APIVersion, Kind, Namespace, Name string
	UID                               types.UID
}

// Outcome is what became of one request.
type Outcome struct {
	Webhook string // pods, workloads, profiles
	Result  Result
	// By is a word for the reason, and Says the reason in sentences, where something was
	// skipped or refused.
	By, Says string
	// DryRun is whether nobody may notice.
	DryRun bool
	// About is what has made the pod.
	About Owner
	// Warnings are what somebody should know.
	Warnings []string
	Took     time.Duration
	patch    []yamledit.Operation
}

// Settings are what the webhooks need. All fields but Excluded have to be set.
type Settings struct {
	Profiles *profiles.Store
	// Default is the profile of pods that name none, in namespaces that name none.
	Default string
	// Excluded are namespaces whose pods are never touched, whatever is asked.
	Excluded []string
	// Labels returns the labels of a namespace.
	Labels func(ctx context.Context, namespace string) (map[string]string, error)
	// Minor is the cluster's minor version; zero for a current one.
	Minor func() int
	// Report is told each outcome.
	Report func(ctx context.Context, o Outcome)
}

// Handler answers a request.
type Handler func(context.Context, *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse

// Pods is the mutating webhook.
func (s Settings) Pods() Handler { return s.handler("pods", s.pod) }

// Workloads is the validating webhook for what makes pods.
func (s Settings) Workloads() Handler { return s.handler("workloads", s.workload) }

// ProfileMaps is the validating webhook for ConfigMaps with a profile.
func (s Settings) ProfileMaps() Handler { return s.handler("profiles", s.profile) }

func (s Settings) handler(
	webhook string, decide func(context.Context, *admissionv1.AdmissionRequest) Outcome,
) Handler {
	return func(ctx context.Context, req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
		start := time.Now()
		o := refused(ByRequest, errors.New("it is no AdmissionReview with a request"))
		if req.Operation != "" {
			o = decide(ctx, req)
		}
		response, err := o.response()
		if err != nil {
			o = refused(ByRequest, err)
			response, _ = o.response() // it has no patch
		}
		o.Webhook, o.DryRun, o.Took = webhook, req.DryRun != nil && *req.DryRun, time.Since(start)
		o.About.Namespace = req.Namespace
		s.Report(ctx, o)
		response.UID = req.UID
		return response
	}
}

// response is what the API server is told.
func (o Outcome) response() (*admissionv1.AdmissionResponse, error) {
	if o.Result == Refused {
		says := o.Says
		if len(says) > maxMessage {
			says = strings.ToValidUTF8(says[:maxMessage], "") + "…"
		}
		return &admissionv1.AdmissionResponse{Result: &metav1.Status{Code: http.StatusForbidden,
			Reason: metav1.StatusReasonForbidden, Message: says}}, nil
	}
	r := &admissionv1.AdmissionResponse{Allowed: true, Warnings: o.Warnings}
	if len(o.patch) == 0 {
		return r, nil
	}
	patch, err := json.Marshal(o.patch)
	if err != nil {
		return nil, fmt.Errorf("the patch: %w", err)
	}
	kind := admissionv1.PatchTypeJSONPatch
	r.Patch, r.PatchType = patch, &kind
	return r, nil
}

func refused(by string, err error) Outcome {
	var lines []string
	for _, e := range strict.Flatten(err) {
		lines = append(lines, strict.OneLine(e.Error()))
	}
	return Outcome{Result: Refused, By: by, Says: strings.Join(lines, "\n")}
}

func skipped(by, says string) Outcome { return Outcome{Result: Skipped, By: by, Says: says} }

// read parses an object of a request.
func read(raw []byte) (*yaml.Node, error) {
	if len(raw) > maxObject {
		return nil, fmt.Errorf("the object has %d bytes, and may have %d", len(raw), maxObject)
	}
	n, err := yamldoc.FromJSON(raw, maxDepth)
	if err != nil {
		return nil, fmt.Errorf("the object cannot be read: %w", err)
	}
	if n.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("the object is no JSON object")
	}
	return n, nil
}

// pod decides about a pod that is created.
func (s Settings) pod(ctx context.Context, req *admissionv1.AdmissionRequest) Outcome {
	if req.Operation != admissionv1.Create || req.Resource.Resource != "pods" || req.SubResource != "" {
		return skipped(Excluded, "only pods that are created are injected")
	}
	if slices.Contains(s.Excluded, req.Namespace) {
		return skipped(Excluded, "pods of namespace "+req.Namespace+" are never injected")
	}
	before, err := read(req.Object.Raw)
	if err != nil {
		return refused(ByRequest, err)
	}
	owner, ofJob := ownerOf(before)
	o := s.inject(ctx, req.Namespace, before, ofJob)
	o.About = owner
	if o.Result != Injected {
		o.patch = nil
	}
	return o
}

// inject decides about a pod, or a template of pods.
func (s Settings) inject(ctx context.Context, namespace string, pod *yaml.Node, job bool) Outcome {
	labels, err := s.Labels(ctx, namespace)
	if err != nil {
		return refused(ByCluster, fmt.Errorf("the labels of namespace %s are not known: %w", namespace, err))
	}
	profile, err := s.Profiles.Get(s.profileOf(pod, labels))
	if err != nil {
		if by, says := inject.Skipped(pod); by != "" {
			return skipped(by, says)
		}
		return refused(ByProfile, err)
	}
	in := inject.Cluster{Minor: s.Minor(), PodSecurity: labels[labelPodSecurity], Job: job}
	result, err := inject.Inject(pod, profile, in)
	if err != nil {
		return refused(ByPod, err)
	}
	if result.Skipped != "" {
		return skipped(result.SkippedBy, result.Skipped)
	}
	patch, err := yamledit.Patch(pod, result.Pod)
	if err != nil {
		return refused(ByPod, err)
	}
	return Outcome{Result: Injected, Warnings: result.Warnings, patch: patch}
}

// profileOf is the name of the profile for a pod.
func (s Settings) profileOf(pod *yaml.Node, labels map[string]string) string {
	if name := strict.Tidy(yamldoc.Text(yamldoc.Get(pod, "metadata", "annotations", annotationProfile))); name != "" {
		return name
	}
	if name := labels[LabelProfile]; name != "" {
		return name
	}
	return s.Default
}

// ownerOf is what has made a pod, and whether that is a Job.
func ownerOf(pod *yaml.Node) (owner Owner, job bool) {
	for _, n := range yamldoc.Items(yamldoc.Get(pod, "metadata", "ownerReferences")) {
		text := func(field string) string { return yamldoc.Text(yamldoc.Get(n, field)) }
		if text("controller") == "true" {
			owner = Owner{APIVersion: text("apiVersion"), Kind: text("kind"), Name: text("name"), UID: types.UID(text("uid"))}
			return owner, owner.Kind == "Job" && strings.HasPrefix(owner.APIVersion, "batch/")
		}
	}
	return Owner{}, false
}

// Would says what would become of a pod that is created now.
func (s Settings) Would(ctx context.Context, namespace string, pod []byte) Outcome {
	n, err := read(pod)
	if err != nil {
		return refused(ByRequest, err)
	}
	_, job := ownerOf(n)
	return s.inject(ctx, namespace, n, job)
}

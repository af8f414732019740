package admit

import (
	"context"
	"encoding/json"
	"fmt"

	admissionv1 "k8s.io/api/admission/v1"

	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/kube/internal/injector/profiles"
	"github.com/mesh-intercept/intercept/podspec/inject"
)

// workload decides about what makes pods. What stays as it was is not judged: a profile
// that has changed must not keep a controller from writing its own fields.
func (s Settings) workload(ctx context.Context, req *admissionv1.AdmissionRequest) Outcome {
	if req.Operation != admissionv1.Create && req.Operation != admissionv1.Update || req.SubResource != "" {
		return skipped(Excluded, "only what is written is judged")
	}
	object, err := read(req.Object.Raw)
	if err != nil {
		return refused(ByRequest, err)
	}
	template, job := inject.PodOf(object)
	if template == nil {
		return skipped(Excluded, "it makes no pods")
	}
	if len(req.OldObject.Raw) > 0 {
		if old, err := read(req.OldObject.Raw); err == nil {
			if was, _ := inject.PodOf(old); yamldoc.Equal(was, template) {
				return skipped(Excluded, "its pods stay as they were")
			}
		}
	}
	o := s.inject(ctx, req.Namespace, template, job)
	if o.Result == Injected {
		o = Outcome{Result: Validated, Warnings: o.Warnings}
	}
	return o
}

// profile decides about a ConfigMap with a profile.
func (s Settings) profile(_ context.Context, req *admissionv1.AdmissionRequest) Outcome {
	if req.Operation != admissionv1.Create && req.Operation != admissionv1.Update || req.Resource.Resource != "configmaps" {
		return skipped(Excluded, "only what is written is judged")
	}
	if len(req.Object.Raw) > maxObject {
		return refused(ByRequest, fmt.Errorf("the object has %d bytes, and may have %d", len(req.Object.Raw), maxObject))
	}
	var m struct {
		Metadata struct{ Labels map[string]string }
		Data     map[string]string
	}
	if err := json.Unmarshal(req.Object.Raw, &m); err != nil {
		return refused(ByRequest, fmt.Errorf("the object cannot be read: %w", err))
	}
	if _, labelled := m.Metadata.Labels[profiles.Label]; !labelled {
		return skipped(Excluded, "it has no label "+profiles.Label)
	}
	if _, err := profiles.Parse(req.Name, m.Data); err != nil {
		return refused(ByProfile, err)
	}
	return Outcome{Result: Validated}
}

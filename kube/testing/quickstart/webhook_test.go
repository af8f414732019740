package quickstart_test

import (
	"os"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestWebhook: Kubernetes knows every field of the files of examples/webhook, and the API server would ask about pods.
func TestWebhook(t *testing.T) {
	read := func(name string, into any) {
		t.Helper()
		text, err := os.ReadFile("../../../examples/webhook/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.UnmarshalStrict(text, into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	var config admissionregistrationv1.MutatingWebhookConfiguration
	read("webhook.yaml", &config)
	if len(config.Webhooks) != 1 || len(config.Webhooks[0].Rules) != 1 ||
		config.Webhooks[0].Rules[0].Resources[0] != string(corev1.ResourcePods) ||
		*config.Webhooks[0].FailurePolicy != admissionregistrationv1.Fail {
		t.Errorf("%+v", config)
	}
	var review admissionv1.AdmissionReview
	read("review.json", &review)
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict(review.Request.Object.Raw, &pod); err != nil || len(pod.Spec.Containers) != 1 {
		t.Errorf("the pod of review.json: %v, %+v", err, pod)
	}
}

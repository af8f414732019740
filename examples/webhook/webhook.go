package main

import (
	"encoding/json"
	"log"
	"net/http"

	"github.com/mesh-intercept/intercept/podspec/inject"
)

// review is what is needed of an AdmissionReview of admission.k8s.io/v1. A program that has Kubernetes' own types
// (k8s.io/api/admission/v1) takes those.
type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *request  `json:"request,omitempty"`
	Response   *response `json:"response,omitempty"`
}

type request struct {
	UID    string          `json:"uid"`
	Object json.RawMessage `json:"object"`
}

type response struct {
	UID       string   `json:"uid"`
	Allowed   bool     `json:"allowed"`
	PatchType string   `json:"patchType,omitempty"`
	Patch     []byte   `json:"patch,omitempty"` // JSON carries bytes as base64, as Kubernetes wants them
	Warnings  []string `json:"warnings,omitempty"`
	Status    *status  `json:"status,omitempty"`
}

type status struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// maxReview is how large a review may be. An object has at most 1.5 MiB, and an update has two.
const maxReview = 4 << 20

// handler answers the API server.
func handler(profile inject.Profile) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in review
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxReview)).Decode(&in); err != nil || in.Request == nil {
			http.Error(w, "it is no AdmissionReview with a request", http.StatusBadRequest)
			return
		}
		answer, says := decide(profile, in.Request.Object)
		answer.UID = in.Request.UID
		log.Println(says)
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(review{APIVersion: in.APIVersion, Kind: in.Kind, Response: &answer}); err != nil {
			log.Printf("answer: %v", err)
		}
	})
}

// decide says what becomes of a pod, and what to log about it. It does nothing else.
func decide(profile inject.Profile, pod []byte) (response, string) {
	injected, err := inject.Read("the pod", pod, profile, inject.Cluster{})
	if err != nil {
		return refused(err)
	}
	if len(injected.Objects) != 1 {
		return response{Allowed: true}, "it is no pod, and left alone"
	}
	o := injected.Objects[0]
	answer := response{Allowed: true, Warnings: o.Warnings}
	if o.Skipped != "" {
		return answer, o.String() + " is left alone: " + o.Skipped
	}
	operations, err := o.Patch()
	if err != nil {
		return refused(err)
	}
	if len(operations) == 0 {
		return answer, o.String() + " is as it is to be"
	}
	if answer.Patch, err = json.Marshal(operations); err != nil {
		return refused(err)
	}
	answer.PatchType = "JSONPatch"
	return answer, o.String() + " gets its sidecar, rules by mode " + string(o.Mode)
}

// refused is the answer where a pod, or its annotations, cannot be understood. Whoever creates the pod is told all
// that is wrong. The other way, to let the pod start without its sidecar, would be one past the proxy.
func refused(err error) (response, string) {
	return response{Status: &status{Code: http.StatusForbidden, Message: err.Error()}}, "refused: " + err.Error()
}

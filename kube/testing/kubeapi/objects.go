package kubeapi

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// edit is one change of an object.
type edit struct {
	rv     uint64
	kind   string
	place  place
	object map[string]any
}

// place is where an object is, or a list of them: what a path says.
type place struct{ version, namespace, resource, name, sub string }

func (p place) key() string {
	return strings.Join([]string{p.version, p.resource, p.namespace, p.name}, "|")
}

// placeOf reads a path such as /apis/apps/v1/namespaces/x/deployments/web/scale.
func placeOf(path string) (p place, ok bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	n := 2
	if parts[0] == "apis" {
		n = 3
	}
	if len(parts) <= n || parts[0] != "api" && parts[0] != "apis" {
		return place{}, false
	}
	p.version = strings.Join(parts[1:n], "/")
	parts = parts[n:]
	if parts[0] == "namespaces" && len(parts) > 2 {
		p.namespace, parts = parts[1], parts[2:]
	}
	parts = append(parts, "", "")
	p.resource, p.name, p.sub = parts[0], parts[1], parts[2]
	return p, true
}

// Apply creates or replaces an object. path is that of its list.
func (s *Server) Apply(path string, object map[string]any) {
	p, ok := placeOf(path)
	if !ok {
		panic(path)
	}
	p.name = name(object)
	s.change(func() { s.store(p, object) })
}

// Remove deletes an object.
func (s *Server) Remove(path string) {
	p, _ := placeOf(path)
	s.change(func() { s.drop(p) })
}

// Object returns a copy of an object, or nil.
func (s *Server) Object(path string) *unstructured.Unstructured {
	p, _ := placeOf(path)
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.objects[p.key()]
	if o == nil {
		return nil
	}
	return (&unstructured.Unstructured{Object: o}).DeepCopy()
}

func name(object map[string]any) string {
	return (&unstructured.Unstructured{Object: object}).GetName()
}

// store takes an object in, with the next resource version.
func (s *Server) store(p place, object map[string]any) {
	if s.objects == nil {
		s.objects = map[string]map[string]any{}
	}
	kind, was := "ADDED", s.objects[p.key()]
	u := &unstructured.Unstructured{Object: object}
	u.SetNamespace(p.namespace)
	if s.rv++; was != nil {
		kind = "MODIFIED"
		u.SetUID((&unstructured.Unstructured{Object: was}).GetUID())
	} else if u.GetUID() == "" {
		u.SetUID(types.UID(fmt.Sprintf("uid-%d", s.rv)))
	}
	u.SetResourceVersion(strconv.FormatUint(s.rv, 10))
	s.objects[p.key()] = object
	s.history = append(s.history, edit{s.rv, kind, p, object})
}

func (s *Server) drop(p place) {
	if o := s.objects[p.key()]; o != nil {
		s.rv++
		delete(s.objects, p.key())
		gone := (&unstructured.Unstructured{Object: o}).DeepCopy()
		gone.SetResourceVersion(strconv.FormatUint(s.rv, 10))
		s.history = append(s.history, edit{s.rv, "DELETED", p, gone.Object})
	}
}

// object serves one request about objects.
func (s *Server) object(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/version" {
		send(w, map[string]string{"major": "1", "minor": "37", "gitVersion": "v1.37.0"})
		return
	}
	p, ok := placeOf(r.URL.Path)
	resource := schema.GroupResource{Resource: p.resource}
	if !ok {
		fail(w, apierrors.NewNotFound(resource, r.URL.Path))
		return
	}
	if p.name == "" && r.Method == http.MethodGet {
		if r.URL.Query().Get("watch") != "" {
			s.watchObjects(w, r, p)
			return
		}
		s.listObjects(w, r, p)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	status, answer, failure := http.StatusOK, map[string]any(nil), (*apierrors.StatusError)(nil)
	s.change(func() {
		was := s.objects[p.key()]
		if was == nil && p.name != "" && p.sub == "" {
			failure = apierrors.NewNotFound(resource, p.name)
			return
		}
		switch r.Method {
		case http.MethodGet:
			answer = was
		case http.MethodDelete:
			s.drop(p)
			answer = was
		case http.MethodPost:
			status = http.StatusCreated
			answer, failure = s.create(p, body)
		case http.MethodPut, http.MethodPatch:
			if answer, failure = edited(r, was, body); failure == nil {
				s.store(p, answer)
			}
		default:
			failure = apierrors.NewMethodNotSupported(resource, r.Method)
		}
	})
	if failure != nil {
		fail(w, failure)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	send(w, form(r, answer))
}

func (s *Server) create(p place, body []byte) (map[string]any, *apierrors.StatusError) {
	var object map[string]any
	if err := json.Unmarshal(body, &object); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if p.sub == "eviction" {
		p.sub = ""
		s.drop(p)
		return object, nil
	}
	u := &unstructured.Unstructured{Object: object}
	if p.name = u.GetName(); s.objects[p.key()] != nil {
		return nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: p.resource}, p.name)
	}
	u.SetCreationTimestamp(metav1.Now())
	s.store(p, object)
	return object, nil
}

// edited is an object after a request has changed it.
func edited(r *http.Request, was map[string]any, body []byte) (map[string]any, *apierrors.StatusError) {
	text, err := json.Marshal(was)
	switch {
	case err != nil:
	case r.Method == http.MethodPut:
		text = body
	case r.Header.Get("Content-Type") == "application/json-patch+json":
		var patch jsonpatch.Patch
		if patch, err = jsonpatch.DecodePatch(body); err == nil {
			text, err = patch.Apply(text)
		}
	default:
		text, err = jsonpatch.MergePatch(text, body)
	}
	var object map[string]any
	if err == nil {
		err = json.Unmarshal(text, &object)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	before, after := &unstructured.Unstructured{Object: was}, &unstructured.Unstructured{Object: object}
	if rv := after.GetResourceVersion(); rv != "" && rv != before.GetResourceVersion() {
		return nil, apierrors.NewConflict(schema.GroupResource{}, before.GetName(), fmt.Errorf("it is at %s",
			before.GetResourceVersion()))
	}
	return object, nil
}

// form is an object as a request wants it: all, or its metadata.
func form(r *http.Request, object map[string]any) map[string]any {
	if !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		return object
	}
	return map[string]any{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"]}
}

// wanted reports whether an object is one of those that a list or watch is about.
func wanted(r *http.Request, p, of place, object map[string]any) bool {
	q, u := r.URL.Query(), &unstructured.Unstructured{Object: object}
	byLabel, err1 := labels.Parse(q.Get("labelSelector"))
	byField, err2 := fields.ParseSelector(q.Get("fieldSelector"))
	return err1 == nil && err2 == nil && of.version == p.version && of.resource == p.resource &&
		(p.namespace == "" || of.namespace == p.namespace) && byLabel.Matches(labels.Set(u.GetLabels())) &&
		byField.Matches(fields.Set{"metadata.name": u.GetName(), "metadata.namespace": u.GetNamespace()})
}

func (s *Server) listObjects(w http.ResponseWriter, r *http.Request, p place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []any{}
	kind := "List"
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		part := strings.Split(key, "|")
		of := place{version: part[0], resource: part[1], namespace: part[2], name: part[3]}
		if o := s.objects[key]; wanted(r, p, of, o) {
			items = append(items, form(r, o))
			kind = (&unstructured.Unstructured{Object: o}).GetKind() + "List"
		}
	}
	version := p.version
	if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList") {
		version, kind = "meta.k8s.io/v1", "PartialObjectMetadataList"
	}
	w.Header().Set("Content-Type", "application/json")
	send(w, map[string]any{"apiVersion": version, "kind": kind, "items": items,
		"metadata": map[string]any{"resourceVersion": strconv.FormatUint(s.rv, 10)}})
}

func (s *Server) watchObjects(w http.ResponseWriter, r *http.Request, p place) {
	q := r.URL.Query()
	if q.Get("sendInitialEvents") == "true" {
		fail(w, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "ListOptions"}, "", nil))
		return
	}
	from, _ := strconv.ParseUint(q.Get("resourceVersion"), 10, 64)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flusher := http.NewResponseController(w)
	s.mu.Lock()
	drops := s.drops
	s.mu.Unlock()
	for {
		s.mu.Lock()
		news, dropped := s.news, s.drops != drops
		for _, e := range s.history {
			if e.rv > from && wanted(r, p, e.place, e.object) {
				send(w, map[string]any{"type": e.kind, "object": form(r, e.object)})
			}
			from = max(from, e.rv)
		}
		s.mu.Unlock()
		if dropped || flusher.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-news:
		case <-time.After(time.Minute):
		}
	}
}

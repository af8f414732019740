// Package cniwire is what the CNI plugin mesh-cni and the agent of its node
// say to each other over a UNIX stream socket.
//
// Both sides are processes of root, and each looks whether the other is. A
// connection carries one message and its answer, each one JSON object on a line of
// its own, of at most [MaxRequest] and [MaxMessage] bytes with the newline. The
// plugin speaks first:
//
//	{"version":1,"op":"pod","pod":{"namespace":"default","name":"web-0","uid":"…","containerID":"…"},"wait":1000}
//	{"version":1,"found":true,"annotations":{"intercept.mesh/enabled":"true"},"runtimeClass":"runc"}
//
//	{"version":1,"op":"ping"}
//	{"version":1}
//
//	{"version":1,"op":"log","record":{"time":"…","level":"INFO","msg":"intercepted",…}}
//
// There is no answer to a record: the plugin does not wait for one. An answer
// with an error says nothing else:
//
//	{"version":1,"error":"not ready: the pods of this node have not been listed yet"}
//
// Fields that a reader does not know are passed over, so that one side can be
// newer. A change that the other side must not pass over takes another
// version; each side refuses those it does not know.
package cniwire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Version is that of the protocol.
const Version = 1

// MaxRequest is the size of the longest message to the agent, with its newline:
// many could be on the way at a time.
const MaxRequest = 64 << 10

// MaxMessage is the size of the longest answer, with its newline. Kubernetes
// keeps a pod's annotations under 256 KiB (TotalAnnotationSizeLimitB in
// k8s.io/apimachinery); escaped as JSON they can be six times as long.
const MaxMessage = 2 << 20

// MaxPath is the length of the longest path of a socket: sun_path of unix(7),
// less its final zero and what [Listen] appends while it sets the mode.
const MaxPath = 107 - len(".1234567")

// Op is what a message is about.
type Op string

// The messages.
const (
	OpPod  Op = "pod"  // say what is known of a pod
	OpPing Op = "ping" // say whether questions can be answered
	OpLog  Op = "log"  // take a record; there is no answer
)

// Pod names a pod as the container runtime names it to a plugin (CNI_ARGS).
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// UID tells apart pods that have had one name, as those of a StatefulSet.
	// Empty: the runtime did not say.
	UID string `json:"uid,omitempty"`
	// ContainerID is that of the sandbox.
	ContainerID string `json:"containerID,omitempty"`
}

// String returns namespace/name.
func (p Pod) String() string { return p.Namespace + "/" + p.Name }

// Request is a message of the plugin.
type Request struct {
	Version int `json:"version"`
	Op      Op  `json:"op"`
	// Pod is that of OpPod.
	Pod Pod `json:"pod,omitzero"`
	// Wait is for how many milliseconds at most the answer to OpPod may be put
	// off until the pod is known: kubelet may learn of a pod before the agent.
	Wait int64 `json:"wait,omitempty"`
	// Record is that of OpLog: a [Record], and whatever else the log line has.
	Record json.RawMessage `json:"record,omitempty"`
}

// Answer is the agent's.
type Answer struct {
	Version int `json:"version"`
	// Error says why there is no answer. The other fields are then empty.
	Error string `json:"error,omitempty"`
	Facts
}

// Facts is what the agent knows of a pod.
type Facts struct {
	// Found is whether it knows the pod: by name and, if the request has one, UID.
	Found bool `json:"found,omitempty"`
	// Annotations are all of the pod's.
	Annotations map[string]string `json:"annotations,omitempty"`
	// RuntimeClass is the pod's spec.runtimeClassName.
	RuntimeClass string `json:"runtimeClass,omitempty"`
	// HostNetwork is the pod's spec.hostNetwork.
	HostNetwork bool `json:"hostNetwork,omitempty"`
	// InitContainer is whether the pod has an init container that intercepts.
	InitContainer bool `json:"initContainer,omitempty"`
	// Labels are the pod's, and Injected the containers that another mesh has injected.
	Labels   map[string]string `json:"labels,omitempty"`
	Injected []Container       `json:"injected,omitempty"`
}

// Container is a container that another mesh has injected.
type Container struct {
	Name string `json:"name"`
	// Init is whether it is an init container that ends before the app starts.
	Init bool `json:"init,omitempty"`
	// UID and GID are its securityContext's, or the pod's. Nil: it has none.
	UID *int64 `json:"uid,omitempty"`
	GID *int64 `json:"gid,omitempty"`
	// Env are those of its variables that say how to intercept.
	Env map[string]string `json:"env,omitempty"`
}

// Record is what the log has to say of one call of the plugin. Lines of the
// log file have the same fields.
type Record struct {
	Time    time.Time `json:"time"`
	Level   string    `json:"level"` // DEBUG, INFO, WARN or ERROR
	Message string    `json:"msg"`
	// Command is that of CNI: ADD, DEL, …
	Command string `json:"command,omitempty"`
	// Result is one of the Result constants. It is set in the one record that
	// ends a call.
	Result string `json:"result,omitempty"`
	// Reason is a word for why, of a small set: fit for a metric's label.
	Reason string `json:"reason,omitempty"`
	// Seconds is how long the call took.
	Seconds float64 `json:"seconds,omitempty"`
	// Code is that of the CNI error, zero for success.
	Code uint `json:"code,omitempty"`
	// Error is the CNI error in words.
	Error string `json:"error,omitempty"`
	// PodNamespace, PodName, PodUID, ContainerID and NetNS say for whom.
	PodNamespace string `json:"podNamespace,omitempty"`
	PodName      string `json:"podName,omitempty"`
	PodUID       string `json:"podUID,omitempty"`
	ContainerID  string `json:"containerID,omitempty"`
	NetNS        string `json:"netns,omitempty"`
	// Backend and Outcome say what was done, and by what.
	Backend string `json:"backend,omitempty"`
	Outcome string `json:"outcome,omitempty"`
}

// How a call ends, in [Record].Result.
const (
	ResultIntercepted = "intercepted" // ADD: the pod's rules are in force
	ResultSkipped     = "skipped"     // ADD, CHECK: not ours, and untouched
	ResultAllowed     = "allowed"     // ADD: failed, and let through by failurePolicy allow
	ResultOK          = "ok"          // any other success
	ResultFailed      = "failed"      // a CNI error
)

// Errors of the exchange itself.
var (
	// ErrNoAgent reports that nobody listens at the socket.
	ErrNoAgent = errors.New("no agent listens there")
	// ErrSlow reports that the agent did not answer in time.
	ErrSlow = errors.New("the agent did not answer in time")
	// ErrGarbled reports that what came back is no answer.
	ErrGarbled = errors.New("what came back is not an agent's answer")
	// ErrRefused is around an error that the agent reports.
	ErrRefused = errors.New("the agent refused")
	// ErrStranger reports a process at the other end that is neither root's nor of
	// the caller's own user.
	ErrStranger = errors.New("the process at the other end is another user's")
)

// Validate reports a request that cannot be answered.
func (r Request) Validate() error {
	switch {
	case r.Version != Version:
		return fmt.Errorf("version %d is not spoken here, but %d: install mesh-cni and its agent of the same release",
			r.Version, Version)
	case r.Op == OpPod && (r.Pod.Namespace == "" || r.Pod.Name == ""):
		return fmt.Errorf("op %q without the pod's namespace and name", string(r.Op))
	case r.Op == OpPod && (r.Wait < 0 || r.Wait > maxWait.Milliseconds()):
		return fmt.Errorf("a wait of %d ms is not from 0 to %d", r.Wait, maxWait.Milliseconds())
	case r.Op == OpLog && len(r.Record) == 0:
		return fmt.Errorf("op %q without a record", string(r.Op))
	case r.Op != OpPod && r.Op != OpPing && r.Op != OpLog:
		return fmt.Errorf("op %q is not one of %s, %s, %s", string(r.Op), OpPod, OpPing, OpLog)
	}
	return nil
}

// maxWait is as long as a plugin can be told to wait for its agent.
const maxWait = time.Minute

// writeMessage writes a message and its newline at once.
func writeMessage(w io.Writer, message any) error {
	b, err := encode(message)
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

// encode is a message and its newline.
func encode(message any) ([]byte, error) {
	most := MaxMessage
	if _, is := message.(Request); is {
		most = MaxRequest
	}
	b, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	if len(b)+1 > most {
		return nil, fmt.Errorf("a message of %d bytes: there can be %d", len(b)+1, most)
	}
	return append(b, '\n'), nil
}

// readMessage reads a message up to its newline.
func readMessage(r io.Reader, message any) error {
	most := MaxMessage
	if _, is := message.(*Request); is {
		most = MaxRequest
	}
	// One more than the limit tells a message that is too long from one that fits.
	b, err := bufio.NewReaderSize(io.LimitReader(r, int64(most)+1), 4096).ReadBytes('\n')
	switch {
	case len(b) > most:
		return fmt.Errorf("%w: it is over %d bytes", errMalformed, most)
	case errors.Is(err, io.EOF) && len(b) == 0:
		return fmt.Errorf("%w: nothing came", errMalformed)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: it was cut off after %d bytes", errMalformed, len(b))
	case err != nil:
		return err
	}
	if b = bytes.TrimSpace(b); len(b) == 0 || b[0] != '{' {
		return fmt.Errorf("%w: %q is no JSON object", errMalformed, clip(b))
	}
	if err := json.Unmarshal(b, message); err != nil {
		return fmt.Errorf("%w: %q: %w", errMalformed, clip(b), err)
	}
	return nil
}

var errMalformed = errors.New("malformed message")

// clip returns the beginning of what is quoted in an error.
func clip(b []byte) []byte { return b[:min(len(b), 60)] }

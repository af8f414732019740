// Package answers is what the agent of a node is asked about the node's pods, and what it answers: over HTTP, one JSON
// document an answer.
//
//	GET  /v1/pods?namespace=shop                    the node's pods, or those of a namespace: a [List]
//	GET  /v1/namespaces/shop/pods/web/status        what mesh-init status says of a pod: an [Answer]
//	GET  /v1/namespaces/shop/pods/web/explain?dst=10.1.2.3:443
//	POST /v1/namespaces/shop/pods/web/verify?output=json
//	POST /v1/namespaces/shop/pods/web/trace?dst=10.1.2.3:443&for=30s
//
// trace and watch tell of what happens as it happens: their answer is a sequence of [Part], each a JSON document on a
// line.
// The parameters of a verb are flags of mesh-init. What is refused has another status than 200, and a [Refusal].
package answers

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// State says in a word how it is with a pod.
type State string

// The states: those of mesh-init status (dataplane.Verdict), and what else there is to say of a pod.
const (
	Refused        State = "refused"         // what it asks for cannot be done
	NotIntercepted State = "not intercepted" // it asks for rules, and there are none
	Asleep         State = "asleep"          // its rules are in a table that is dormant
	Changed        State = "changed"         // its rules are others than it asks for, or than were written
	Taken          State = "taken"           // another's rules take what ours capture
	Partial        State = "partial"         // part of its traffic does not come to the proxy
	Shared         State = "shared"          // an app in it runs as the proxy's user or group
	Full           State = "full"            // connection tracking has no room for new connections
	Unserved       State = "unserved"        // nobody listens at a port to which its rules send
	Unknown        State = "unknown"         // the kernel did not say
	Waiting        State = "waiting"         // it has no process yet, or none any more
	Intercepting   State = "intercepting"    // nothing is seen that is wrong
	LeftAlone      State = "left alone"      // it asks for nothing, and has no rules
)

// States are all of them, the most trouble first.
func States() []State {
	return []State{Refused, NotIntercepted, Asleep, Changed, Taken, Partial, Shared, Full, Unserved, Unknown, Waiting,
		Intercepting, LeftAlone}
}

// OfRequest reports whether the state follows from what a pod asks for, which mesh-init in the pod does not know.
func (s State) OfRequest() bool {
	return s == Refused || s == NotIntercepted || s == Changed || s == LeftAlone
}

// InForce reports whether the rules that a pod asks for are in force and are what decides, whatever else is wrong.
func (s State) InForce() bool {
	return s == Partial || s == Shared || s == Full || s == Unserved || s == Intercepting
}

// Row is how it is with a pod, as a look at it finds: without trying anything.
type Row struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Node      string `json:"node"`
	State     State  `json:"state"`
	// Why is what is behind the state. Empty: the state says it all.
	Why string `json:"why,omitempty"`
}

// String is the row in a line.
func (r Row) String() string {
	s := fmt.Sprintf("%s/%s: %s", r.Namespace, r.Name, r.State)
	if r.Why != "" {
		s += ": " + r.Why
	}
	return strict.OneLine(s)
}

// Sort sorts rows by trouble, and those of one state by namespace and name.
func Sort(rows []Row) {
	rank := map[State]int{}
	for i, s := range States() {
		rank[s] = i + 1 // those of a later version have 0, and come first
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(cmp.Compare(rank[a.State], rank[b.State]), strings.Compare(a.Namespace, b.Namespace),
			strings.Compare(a.Name, b.Name))
	})
}

// List is the pods of a node.
type List struct {
	Pods []Row `json:"pods"`
}

// Answer is what a verb of mesh-init says of a pod.
type Answer struct {
	Row
	// Exit is the verb's exit code, as mesh-init has them.
	Exit   int    `json:"exit"`
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
}

// Part is a part of an answer that comes as it happens.
type Part struct {
	Stdout string `json:"stdout,omitempty"`
	Stderr string `json:"stderr,omitempty"`
	// End is the last part's: the answer, without what the parts have had. An answer without one was cut off.
	End *Answer `json:"end,omitempty"`
}

// Refusal is why there is no answer.
type Refusal struct {
	Status  int    `json:"status"` // of HTTP
	Message string `json:"message"`
}

func (r *Refusal) Error() string { return r.Message }

// Refuse makes a refusal.
func Refuse(status int, format string, args ...any) *Refusal {
	return &Refusal{status, fmt.Sprintf(format, args...)}
}

// Verb is a verb of mesh-init that an agent carries out for others.
type Verb struct {
	Name, Does string
	// Acts is whether it does more than look: it is asked for by POST, and takes the right to create.
	Acts bool
	// Configured is whether it is told the configuration.
	Configured bool
	// Document is whether its result is one for programs, whatever the form.
	Document bool
	// Follows is whether it tells of what happens, for at most [LongestFollow], in a sequence of [Part].
	Follows bool
	// Flags are those of mesh-init that may be given. None of them names a file or a namespace.
	Flags []Flag
}

// Flag is a flag of a verb.
type Flag struct {
	Name string
	// Form is how its value is written. Empty: it is given or not.
	Form string
	// Does is what it is for, in a few words.
	Does string
}

// LongestFollow is how long an agent tells of what happens.
const LongestFollow = 10 * time.Minute

// Verbs are all of them.
func Verbs() []Verb {
	const does = "form of the result"
	output := Flag{"output", "text|json|yaml", does}
	return []Verb{
		{Name: "status", Does: "say whether a pod is intercepted, by which rules, and what they have counted",
			Flags: []Flag{{"output", "text|wide|json|yaml|prometheus", does}}},
		{Name: "check", Does: "compare the rules in force with what the pod asks for", Configured: true,
			Flags: []Flag{output}},
		{Name: "verify", Does: "prove that interception works, by connections and lookups in the pod", Acts: true,
			Configured: true, Flags: []Flag{output, {"wait", "DURATION", "try again until it works, for so long"},
				{"allow-unproven", "", "end with 0 although something is not proven"}}},
		{Name: "explain", Does: "say what happens to a packet of the pod, and why", Configured: true, Flags: []Flag{output,
			{"dst", "ADDRESS:PORT", "where it goes, as in 10.1.2.3:443"},
			{"src", "ADDRESS[:PORT]", "where it comes from"},
			{"from", "app|proxy|outside", "who sends it"},
			{"proto", "tcp|udp|icmp", "its protocol"},
			{"uid", "ID", "the app's user"}, {"gid", "ID", "the app's group"},
			{"mark", "NUMBER", "the mark of the sender's socket"},
			{"interface", "NAME", "the one it leaves or arrives by"},
			{"to-self", "", "the destination is the pod's own address"},
			{"state", "new|established|invalid", "what conntrack calls it"},
			{"why-not", "ADDRESS:PORT", "which change of the configuration would give it the other fate"},
			{"matrix", "", "what becomes of each kind of traffic, in place of one packet"}}},
		{Name: "support", Does: "write down all that a bug report about a pod needs, as one document", Configured: true,
			Document: true, Flags: []Flag{{"output", "json|yaml", does}, {"mask", "", "hide addresses, names and secrets"}}},
		{Name: "trace", Does: "follow real packets of a pod through the rules in force", Acts: true, Follows: true,
			Flags: []Flag{{"output", "text|json", does}, {"for", "DURATION", "for how long: 10s if not given, at most 10m"},
				{"count", "NUMBER", "how many packets at most"},
				{"dst", "ADDRESS:PORT", "where they go, as in 10.1.2.3:443"},
				{"src", "ADDRESS[:PORT]", "where they come from"},
				{"from", "app|proxy|outside", "who sends them"},
				{"proto", "tcp|udp|icmp", "their protocol"},
				{"uid", "ID", "the sender's user"}, {"gid", "ID", "the sender's group"},
				{"mark", "NUMBER", "the mark of the sender's socket"},
				{"interface", "NAME", "the one they leave or arrive by"},
				{"to-self", "", "the destination is the pod's own address"}}},
		{Name: "watch", Does: "tell who changes a pod's rules, and which connections go past the proxy", Follows: true,
			Flags: []Flag{{"output", "text|json", does}, {"for", "DURATION", "for how long: 10m if not given, and at most"}}},
	}
}

// Find returns a verb by its name.
func Find(name string) (Verb, bool) {
	all := Verbs()
	i := slices.IndexFunc(all, func(v Verb) bool { return v.Name == name })
	if i < 0 {
		return Verb{}, false
	}
	return all[i], true
}

// Method is the verb's of HTTP.
func (v Verb) Method() string {
	if v.Acts {
		return http.MethodPost
	}
	return http.MethodGet
}

// Access is what an asker needs the right to: a verb of Kubernetes on the subresource intercept of pods, as RBAC grants
// it.
type Access struct {
	Verb string // get, create or list
	// Namespace is the pod's. Empty, with list: all of them.
	Namespace string
	// Name is the pod's. Empty with list.
	Name string
}

// The resource of [Access].
const (
	Resource    = "pods"
	Subresource = "intercept"
)

// Audience is for whom tokens are made with which agents are asked: the API server takes no such token, so an agent can
// do nothing with it.
const Audience = "mesh-cni-agent"

// Access is what the verb takes of an asker.
func (v Verb) Access(namespace, name string) Access {
	a := Access{Verb: "get", Namespace: namespace, Name: name}
	if v.Acts {
		a.Verb = "create"
	}
	return a
}

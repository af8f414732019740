package answer

import (
	"encoding/json"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/explain"
)

// A Request is what is asked. Each operation reads the fields that its comment names; others are passed over.
type Request struct {
	// Op is the operation, one of those of [Ops].
	Op string `json:"op"`
	// Source is the configuration that is asked about, in whatever form somebody writes it.
	Source Source `json:"source"`
	// Other is the configuration to compare with, of diff: Source is before, Other is after.
	Other Source `json:"other"`
	// Packet is the one to follow, of explain, link and rules (to say which lines decide).
	Packet *explain.Question `json:"packet,omitempty"`
	// Text is what unlink and support read.
	Text string `json:"text,omitempty"`
}

// Source is a configuration as somebody writes it. The zero Source is the default configuration.
type Source struct {
	// Form is one of those of [Forms]. Empty: form.
	Form string `json:"form,omitempty"`
	// Text is the text of all forms but form.
	Text string `json:"text,omitempty"`
	// Fields are, of form, the values of fields by their paths ("outbound.excludePorts"), in their text form. Fields that
	// are not there have their defaults.
	Fields map[string]string `json:"fields,omitempty"`
}

// The forms of a Source.
const (
	// FormFields is the form on the page: the text of each field.
	FormFields = "form"
	// FormYAML is a file of mesh-init --config: YAML or JSON.
	FormYAML = "yaml"
	// FormFlags is a command line of mesh-init: words as a shell reads them. The program and a verb may come first.
	FormFlags = "flags"
	// FormAnnotations is a pod's annotations: lines of YAML, NAME: VALUE, or a pod's or its metadata's whole YAML.
	FormAnnotations = "annotations"
	// FormIstio is a command line of istio-iptables.
	FormIstio = "istio"
)

// Failure is the answer where there is no other: {"error": {…}}.
type Failure struct {
	Error Problem `json:"error"`
}

// Problem is what is wrong.
type Problem struct {
	// Text says it in the library's words, without what the other fields say.
	Text string `json:"text"`
	// Field is the path of the configuration's field ("outbound.excludePorts"), or of the packet's ("packet.dst"). Empty:
	// it is no one field's.
	Field string `json:"field,omitempty"`
	// Source is what the value came from: a flag, an annotation. Empty: the Field says it.
	Source string `json:"source,omitempty"`
	// Line is the line of the text, from 1. Zero: there is none.
	Line int `json:"line,omitempty"`
	// Of says which Source of the request it is of: "source" or "other". Empty: none.
	Of string `json:"of,omitempty"`
	// All are all the problems, of a Failure's that has several: this one is the first of them.
	All []Problem `json:"all,omitempty"`
}

// Read is the answer to read (Source): the configuration in every form.
type Read struct {
	// Config is the whole configuration, each field, as mesh-init render -o json has it.
	Config intercept.Config `json:"config"`
	// Forms are texts by their forms; the one that was asked with is as it was written. A form that cannot say this
	// configuration is not there, and Unsaid says why.
	Forms map[string]string `json:"forms"`
	// Fields is the form on the page: the text of every field, by its path.
	Fields map[string]string `json:"fields"`
	// Changed are the paths of the fields that are not as in the default, in the order of the schema.
	Changed []string `json:"changed"`
	// Unsaid says, by form, why there is no text in it.
	Unsaid map[string]string `json:"unsaid,omitempty"`
	// Warnings are the linter's: what is valid and rarely meant.
	Warnings []string `json:"warnings"`
	// Notes are what the reader of the form had to say: a deprecated name, a flag without a meaning here.
	Notes []string `json:"notes"`
	// Families are those that are captured: "IPv4", "IPv6".
	Families []string `json:"families"`
}

// Schema is the answer to schema: what fields there are.
type Schema struct {
	Version string `json:"version"`
	// Sections are the groups of the configuration's fields, in order.
	Sections []string `json:"sections"`
	Fields   []Field  `json:"fields"`
	// Packet are the fields of a packet; their paths are those of Request.Packet.
	Packet []Field `json:"packet"`
	// Document is the configuration's JSON Schema, that of docs/config.schema.json.
	Document json.RawMessage `json:"document"`
	Forms    []string        `json:"forms"`
	Ops      []string        `json:"ops"`
}

// Field describes a field.
type Field struct {
	Path    string `json:"path"`
	Section string `json:"section,omitempty"`
	// Kind is switch, choice, list or text.
	Kind string `json:"kind"`
	// Form stands for the value: PORT, CIDRS.
	Form string `json:"form"`
	// Choices are all values there are, of a switch and a choice.
	Choices []string `json:"choices,omitempty"`
	Default string   `json:"default"`
	Meaning string   `json:"meaning"`
	// Flag is with its dashes, Variable is the environment's, and Annotation is the whole name.
	Flag       string `json:"flag,omitempty"`
	Variable   string `json:"variable,omitempty"`
	Annotation string `json:"annotation,omitempty"`
}

// Explained is the answer to explain (Source, Packet): what becomes of a packet, and how. All but what is here is as in
// mesh-init explain -o json.
type Explained struct {
	explain.Explanation
	// Captured is true of what goes to the proxy.
	Captured bool `json:"captured"`
	// Meaning is what the deciding rule's line means, in a few words.
	Meaning string `json:"meaning,omitempty"`
	Steps   []Step `json:"steps"`
	// Way are the hooks that the packet passes, in order, up to where its fate is decided.
	Way []Passed `json:"way"`
	// Change is what becomes of the destination.
	Change *Change `json:"change,omitempty"`
	// Nodes are the boxes of the picture that the packet comes to, in order.
	Nodes []string `json:"nodes"`
	// Command is a command line of mesh-init that gives the same answer.
	Command string `json:"command"`
}

// Step is one rule's look at the packet.
type Step struct {
	explain.Step
	// Hook is that of the base chain that the packet is in: "output". Base is that chain.
	Hook string `json:"hook"`
	Base string `json:"base"`
	// Node is the box of the picture that has the rule.
	Node string `json:"node"`
	// Effect is what a rule that matched does besides: a mark, a zone. Empty: nothing.
	Effect string `json:"effect,omitempty"`
}

// Passed is a hook, and our base chains that the packet meets there, in order.
type Passed struct {
	Hook   string   `json:"hook"`
	Chains []string `json:"chains"`
}

// Change is a destination before and after.
type Change struct {
	What   string `json:"what"` // "destination", or "none": delivered with its addresses unchanged
	Before string `json:"before"`
	After  string `json:"after"`
}

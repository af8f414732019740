package answer

import (
	"encoding/json"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/ruleset"
)

// A Request is what is asked. Each operation reads the fields that its comment names; others are passed over.
type Request struct {
	// Op is the operation, one of those of [Ops].
	Op string `json:"op"`
	// Source is the configuration that is asked about, in whatever form somebody writes it.
	Source Source `json:"source"`
	// Other is the configuration to compare with, of diff: Source is before, Other is after.
	Other Source `json:"other"`
	// Packet is the one that explain and whynot ask about, and that link has.
	Packet *explain.Question `json:"packet,omitempty"`
	// Compare is, of link, whether Other is part of what the page shows.
	Compare bool `json:"compare,omitempty"`
	// View is, of link, what is open on the page: small letters, digits and dashes.
	View string `json:"view,omitempty"`
	// Text is what unlink and support read: a link, or its end; a document of mesh-init support.
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
	// FormIstio is a command line of istio-iptables, as a shell reads it: variables (KEY=VALUE) and the program may come
	// first.
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
	// configuration has the nearest text, or none, and Unsaid says what it cannot say.
	Forms map[string]string `json:"forms"`
	// Fields is the form on the page: the text of every field, by its path.
	Fields map[string]string `json:"fields"`
	// Changed are the paths of the fields that are not as in the default, in the order of the schema.
	Changed []string `json:"changed"`
	// Unsaid says, by form, in what its text means something else, or why there is none.
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
	// End is where the packet gets to.
	End End `json:"end"`
	// Spared is the rule that would have sent the packet to the proxy, had no other let it go before. Nil: it has been
	// asked, or does not fit.
	Spared *Spared `json:"spared,omitempty"`
	// Way are the hooks that the packet passes, in order, up to where its fate is decided.
	Way []Passed `json:"way"`
	// Change is what becomes of the destination.
	Change *Rewrite `json:"change,omitempty"`
	// Command is a command line of mesh-init that gives the same answer.
	Command string `json:"command"`
}

// Step is one rule's look at the packet.
type Step struct {
	explain.Step
	// Hook is that of the base chain that the packet is in: "output". Base is that chain.
	Hook string `json:"hook"`
	Base string `json:"base"`
	// Effect is what a rule that matched does besides: a mark, a zone. Empty: nothing.
	Effect string `json:"effect,omitempty"`
}

// Passed is a hook, and our base chains that the packet meets there, in order.
type Passed struct {
	Hook   string   `json:"hook"`
	Chains []string `json:"chains"`
}

// Spared is a rule that is not asked.
type Spared struct {
	ID     ruleset.RuleID `json:"id"`
	Reason string         `json:"reason"`
	Fate   string         `json:"fate"`
}

// Rewrite is a destination before and after. They are the same of what is delivered to the proxy with its addresses
// unchanged (mode tproxy).
type Rewrite struct {
	Before string `json:"before"`
	After  string `json:"after"`
}

// Matrix is the answer to matrix (Source): what becomes of the first packet of every flow, as in mesh-init explain --matrix
// -o json. Of several parts of a cell the first that fits says it.
type Matrix struct {
	Cells []Cell `json:"cells"`
}

// Cell is one kind of flow.
type Cell struct {
	explain.Cell
	Parts []Part `json:"parts"`
}

// Part is the flows of a cell that have one fate, by rules of one line of the policy.
type Part struct {
	explain.Part
	// Ask is a packet of it, to ask about. Nil: a question cannot say what its packets are.
	Ask *explain.Question `json:"ask,omitempty"`
}

// Diff is the answer to diff (Source, Other): which packets have another fate, as in mesh-init explain --diff -o json.
type Diff struct {
	// Same is true if no packet's fate differs: that is proven, not sampled.
	Same    bool     `json:"same"`
	Changes []Change `json:"changes"`
	// Fields are the paths of the fields that differ, in the order of the schema, with both texts.
	Fields []Differing `json:"fields"`
}

// Change is packets that have one fate before and another one after.
type Change struct {
	explain.Change
	// Ask is one of them, to ask about. Nil: a question cannot say what they are.
	Ask *explain.Question `json:"ask,omitempty"`
}

// Differing is a field in which two configurations differ.
type Differing struct {
	Path   string `json:"path"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Rules is the answer to rules (Source): the rules in all forms.
type Rules struct {
	// NFT is for nft -f, and IPTables for iptables-restore and then ip6tables-restore, as mesh-init render prints them.
	NFT      Text `json:"nft"`
	IPTables Text `json:"iptables"`
	// Chains are those of mesh-init render -o json, in the order in which packets meet them.
	Chains   []explain.Chain `json:"chains"`
	Families []string        `json:"families"`
}

// Text is a text, line by line.
type Text struct {
	Lines []Line `json:"lines"`
	// Error says why there is no text: what the backend cannot express.
	Error string `json:"error,omitempty"`
}

// Line is one of a Text.
type Line struct {
	Text string `json:"text"`
	// ID is the rule's, if the line is one of ours.
	ID ruleset.RuleID `json:"id,omitempty"`
}

// Chains is the answer to chains (Source): what a packet can meet, without the texts of rules, which take longer.
type Chains struct {
	// Hooks are netfilter's, in the order in which packets meet them; one without chains is there, too.
	Hooks []Hook `json:"hooks"`
	// Chains are all that there are, by Hooks' names, and those that they lead to.
	Chains []explain.Chain `json:"chains"`
}

// Hook is a place in the kernel, and our base chains there in the order in which packets meet them.
type Hook struct {
	Name   string   `json:"name"`
	Chains []string `json:"chains"`
}

// Link is the answer to link (Source, Other, Packet, View).
type Link struct {
	// Text is what follows the # of the page's address, and URL the address of the public page.
	Text string `json:"text"`
	URL  string `json:"url"`
}

// Unlink is the answer to unlink (Text): what to ask for so that the page shows what the link says. Values in it are as they
// were written, so read says what is wrong with them.
type Unlink struct {
	Source Source            `json:"source"`
	Other  *Source           `json:"other,omitempty"`
	Packet *explain.Question `json:"packet,omitempty"`
	View   string            `json:"view,omitempty"`
	// Form is the one that was open.
	Form string `json:"form,omitempty"`
}

// Scenarios is the answer to scenarios: cases to begin with.
type Scenarios struct {
	Scenarios []Scenario `json:"scenarios"`
}

// Scenario is a case: a configuration, a packet, and what becomes of it.
type Scenario struct {
	// Name is a word for it, which stays.
	Name string `json:"name"`
	// Title is short, and Says is one sentence on what is to be seen.
	Title  string            `json:"title"`
	Says   string            `json:"says"`
	Fields map[string]string `json:"fields"` // of Source, form
	Packet explain.Question  `json:"packet"`
	Fate   string            `json:"fate"`
	ID     ruleset.RuleID    `json:"id"`
}

// Support is the answer to support (Text): what a document of mesh-init support says.
type Support struct {
	At     string `json:"at"`
	Masked bool   `json:"masked"`
	Tool   string `json:"tool"`
	// From says which configuration it is: "inForce", or "given", the one that mesh-init support was given, where what is in
	// force is not known, or nothing is: None says which. Why says it in words.
	From   string `json:"from"`
	None   bool   `json:"none,omitempty"`
	Why    string `json:"why,omitempty"`
	Source Source `json:"source"`
	// By is who wrote the rules, and Written when.
	By      string `json:"by,omitempty"`
	Written string `json:"written,omitempty"`
	Backend string `json:"backend,omitempty"`
	// Origins say where values of the configuration came from, by their paths.
	Origins map[string]string `json:"origins,omitempty"`
	// Cut are lists of the configuration that the document has not whole.
	Cut []string `json:"cut,omitempty"`
	// Verdict, Summary and Causes are those of mesh-init status.
	Verdict string   `json:"verdict,omitempty"`
	Summary string   `json:"summary,omitempty"`
	Causes  []string `json:"causes"`
	// Counters are what rules have counted, by their IDs: those of both families together.
	Counters map[ruleset.RuleID]Counted `json:"counters"`
	// Meanings are what the counters add up to.
	Meanings []Meaning `json:"meanings"`
	// Foreign are chains of others at the same hooks, and Others their rules in iptables' built-in chains.
	Foreign []beside.Foreign `json:"foreign"`
	Others  []Other          `json:"others"`
	// Differences are how the rules differ from what was written.
	Differences []string `json:"differences"`
	// Addresses are the pod's own: what goes to one of them stays in the pod (toSelf).
	Addresses []string `json:"addresses"`
	// Unread are the parts that could not be read, with the reason.
	Unread map[string]string `json:"unread"`
}

// Counted is what a rule has counted.
type Counted struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	// Uncounted is true of a rule that has no counter.
	Uncounted bool `json:"uncounted,omitempty"`
}

// Meaning is what the rules of one meaning have counted.
type Meaning struct {
	Meaning string `json:"meaning"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Other is a rule of somebody else's.
type Other struct {
	Family  string `json:"family"`
	Table   string `json:"table"`
	Chain   string `json:"chain"`
	Rule    string `json:"rule"`
	Earlier bool   `json:"earlier"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

package answer

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/beside"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/permalink"
	"github.com/mesh-intercept/intercept/internal/strict"
	"github.com/mesh-intercept/intercept/internal/support"
	"github.com/mesh-intercept/intercept/internal/yamldoc"
	"github.com/mesh-intercept/intercept/ruleset"
)

// document is a document of mesh-init support (docs/support.schema.json), as far as the page shows it.
type document struct {
	Version int    `json:"version"`
	At      string `json:"at"`
	Masked  bool   `json:"masked"`
	Tool    struct {
		Version string `json:"version"`
	} `json:"tool"`
	Parts map[string]struct {
		Value   json.RawMessage `json:"value"`
		Error   string          `json:"error"`
		Omitted map[string]int  `json:"omitted"`
	} `json:"parts"`
}

type configPart struct {
	Config  json.RawMessage   `json:"config"`
	At      string            `json:"at"`
	By      string            `json:"by"`
	Backend string            `json:"backend"`
	Origins map[string]string `json:"origins"`
	Omitted []string          `json:"omitted"`
}

type statusPart struct {
	Verdict     string            `json:"verdict"`
	Summary     string            `json:"summary"`
	Causes      []string          `json:"causes"`
	Counters    []ruleset.Counter `json:"counters"`
	Differences []string          `json:"differences"`
	Meanings    []Meaning         `json:"meanings"`
	Foreign     struct {
		Chains []beside.Foreign `json:"chains"`
	} `json:"foreign"`
	Others struct {
		Rules []Other `json:"rules"`
	} `json:"others"`
}

type interfacePart struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
}

var errNoDocument = errors.New("this is no document of mesh-init support; mesh-init support -n NAMESPACE > support.json " +
	"writes one")

// readDocument reads JSON or YAML.
func readDocument(text string) (doc document, err error) {
	data := []byte(text)
	if !json.Valid(data) {
		node, err := yamldoc.Parse(data)
		if err != nil {
			return doc, fmt.Errorf("%w (%w)", errNoDocument, err)
		}
		if data, err = json.Marshal(support.Tree{Node: likeJSON(node)}); err != nil {
			return doc, fmt.Errorf("%w (%w)", errNoDocument, err)
		}
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return doc, fmt.Errorf("%w (%w)", errNoDocument, err)
	}
	switch {
	case doc.Version == 0 || doc.Parts == nil:
		return doc, errNoDocument
	case doc.Version != support.Version:
		return doc, fmt.Errorf("this document is of version %d, and %d is known here; open it with the page of the version "+
			"that wrote it", doc.Version, support.Version)
	}
	return doc, nil
}

// likeJSON has quotes around what JSON does not write without: a reader of YAML leaves open what a word is.
func likeJSON(n strict.Node) strict.Node {
	if n.Kind == strict.Scalar && n.Bare {
		_, err := strconv.ParseFloat(n.Text, 64)
		n.Bare = (err == nil && json.Valid([]byte(n.Text))) || n.Text == "true" || n.Text == "false"
	}
	for i := range n.Items {
		n.Items[i] = likeJSON(n.Items[i])
	}
	for i := range n.Fields {
		n.Fields[i].Value = likeJSON(n.Fields[i].Value)
	}
	return n
}

func supported(r Request) (any, error) {
	doc, err := readDocument(r.Text)
	if err != nil {
		return nil, err
	}
	out := Support{At: doc.At, Masked: doc.Masked, Tool: doc.Tool.Version, Causes: []string{}, Differences: []string{},
		Counters: map[ruleset.RuleID]Counted{}, Meanings: []Meaning{}, Foreign: []beside.Foreign{}, Others: []Other{},
		Addresses: []string{}, Unread: map[string]string{}}
	for name, part := range doc.Parts {
		if part.Error != "" {
			out.Unread[name] = part.Error
		}
	}
	if err := out.configured(doc); err != nil {
		return nil, err
	}
	var status statusPart
	if err := doc.part("status", &status); err != nil {
		return nil, err
	}
	out.Verdict, out.Summary = status.Verdict, status.Summary
	out.Causes = append(out.Causes, status.Causes...)
	out.Differences = append(out.Differences, status.Differences...)
	out.Meanings = append(out.Meanings, status.Meanings...)
	out.Foreign = append(out.Foreign, status.Foreign.Chains...)
	out.Others = append(out.Others, status.Others.Rules...)
	for _, c := range status.Counters {
		if c.Rule != "" {
			all := out.Counters[c.Rule]
			all.Packets, all.Bytes, all.Uncounted = all.Packets+c.Packets, all.Bytes+c.Bytes, c.Uncounted
			out.Counters[c.Rule] = all
		}
	}
	var interfaces []interfacePart
	if err := doc.part("interfaces", &interfaces); err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		if i.Name == ruleset.Loopback {
			continue
		}
		for _, text := range i.Addresses {
			if prefix, err := netip.ParsePrefix(text); err == nil && !prefix.Addr().IsLinkLocalUnicast() {
				out.Addresses = append(out.Addresses, prefix.Addr().String())
			}
		}
	}
	return out, nil
}

func (d document) part(name string, to any) error {
	value := d.Parts[name].Value
	if len(value) == 0 {
		return nil
	}
	if err := json.Unmarshal(value, to); err != nil {
		return fmt.Errorf("parts.%s: %w", name, err)
	}
	return nil
}

// configured takes the configuration that is in force, or the one that was given where that is not known.
func (s *Support) configured(doc document) error {
	s.From = "inForce"
	if len(doc.Parts[s.From].Value) == 0 {
		s.From = "given"
		s.Why = doc.Parts["inForce"].Error
		s.None = strings.HasPrefix(s.Why, ruleset.ErrNotIntercepted.Error())
	}
	var part configPart
	if err := doc.part(s.From, &part); err != nil {
		return err
	}
	if len(part.Config) == 0 {
		return errors.New("the document has no configuration, neither that in force nor another")
	}
	c := intercept.Default()
	if err := json.Unmarshal(part.Config, &c); err != nil {
		return fmt.Errorf("parts.%s.config: %w", s.From, err)
	}
	s.Source = Source{Form: FormFields, Fields: permalink.Fields(decode.WithoutPod(c))}
	s.By, s.Written, s.Backend, s.Origins, s.Cut = part.By, part.At, part.Backend, part.Origins, part.Omitted
	for path := range doc.Parts[s.From].Omitted {
		if field, is := strings.CutPrefix(path, "config."); is {
			s.Cut = append(s.Cut, field)
		}
	}
	return nil
}

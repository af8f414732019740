package pages

import (
	"encoding/json"
	"strings"
)

// section is what search finds: a heading, and what stands under it.
type section struct {
	heading, anchor string
	text            []string // words
}

// playgroundSection is what search finds of the playground, which is a page of its own kind.
func playgroundSection(path string) *page {
	return &page{Path: path, Title: "Playground", sections: []section{{heading: "What happens to this packet?", text: []string{
		"The playground: ask what happens to a packet of a pod with a sidecar proxy, and which rule decides it.",
		"Try a configuration, in any of its forms; see all traffic, the rules as text, and compare two configurations.",
		"Open what mesh-init support has written on a node."}}}}
}

// index is what search.js reads: the pages, and their sections as [page, anchor, heading, text].
func index(all []*page) ([]byte, error) {
	type entry struct {
		URL   string `json:"url"`
		Title string `json:"title"`
	}
	out := struct {
		Pages    []entry  `json:"pages"`
		Sections [][4]any `json:"sections"`
	}{}
	for i, p := range all {
		out.Pages = append(out.Pages, entry{p.Path, p.Title})
		for _, s := range p.sections {
			out.Sections = append(out.Sections, [4]any{i, s.anchor, s.heading, strings.Join(s.text, " ")})
		}
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(out); err != nil {
		return nil, err
	}
	return []byte(b.String()), nil
}

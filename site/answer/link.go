package answer

import (
	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/permalink"
)

// textsOf are all fields of a configuration.
func textsOf(c intercept.Config) []decode.Setting { return decode.Settings(c, true) }

func link(r Request) (any, error) {
	c, _, err := compiled("source", r.Source)
	if err != nil {
		return nil, err
	}
	s := permalink.State{Config: permalink.Fields(c), Packet: r.Packet, View: r.View, Form: r.Source.Form}
	if s.Form == FormFields {
		s.Form = "" // that is what the page shows first
	}
	if r.Compare {
		other, _, err := compiled("other", r.Other)
		if err != nil {
			return nil, err
		}
		s.Other = permalink.Fields(other)
	}
	text, err := s.Encode()
	if err != nil {
		return nil, err
	}
	return Link{text, permalink.Page + "#" + text}, nil
}

func unlink(r Request) (any, error) {
	s, err := permalink.Decode(r.Text)
	if err != nil {
		return nil, err
	}
	out := Unlink{Source: Source{Form: FormFields, Fields: s.Config}, Packet: s.Packet, View: s.View, Form: s.Form}
	if s.Other != nil {
		out.Other = &Source{Form: FormFields, Fields: s.Other}
	}
	return out, nil
}

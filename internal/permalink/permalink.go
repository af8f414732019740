// Package permalink writes what the playground shows as a text for the end of its address, and reads it back: a link that
// shows exactly one case. It is a function of configurations and packets.
package permalink

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/explain"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// Page is the address of the playground.
const Page = "https://mesh-intercept.github.io/intercept/playground/"

// State is what the playground shows.
type State struct {
	// Config has the fields of the configuration that are not as in the default, by their paths, in their text form.
	Config map[string]string
	// Other is another configuration to compare with. Nil: there is none.
	Other map[string]string
	// Packet is the one that is asked about. Nil: none is.
	Packet *explain.Question
	// View and Form are what is open on the page: small letters, digits and dashes. Empty: it is not said.
	View, Form string
}

// Fields are those of a configuration that a State has.
func Fields(c intercept.Config) map[string]string {
	all := map[string]string{}
	for _, s := range decode.Settings(c, false) {
		all[s.Field.Path] = s.Text
	}
	return all
}

// version is the first letter of a text. Another form of it would have another.
const version = "1"

// most is how long a text may be. Browsers, chats and issue trackers cut off longer addresses.
const most = 32 << 10

// ErrTooLong reports a State for which there is no link.
var ErrTooLong = fmt.Errorf("a link would have over %d bytes; attach the configuration as a file", most)

// Keys that stand before the names of fields, or by themselves.
const (
	packetKey = "packet."
	otherKey  = "other"
	viewKey   = "view"
	formKey   = "form"
)

// Encode writes a state. The same state has the same text.
//
// It is a version and then key=value, with & between: 1&dns=all&packet.dst=10.1.2.3:443. The keys are mesh-init's flags,
// so that people can read it, and write one.
func (s State) Encode() (string, error) {
	out := []string{version}
	add := func(key, value string) { out = append(out, key+"="+escape(value)) }
	configuration := func(prefix string, fields map[string]string) error {
		known := 0
		for _, f := range decode.Fields() {
			if text, given := fields[f.Path]; given {
				add(prefix+f.Name, text)
				known++
			}
		}
		if known < len(fields) {
			return errors.New("a field is unknown, so there is no link")
		}
		return nil
	}
	err := configuration("", s.Config)
	if s.Other != nil {
		add(otherKey, "")
		err = errors.Join(err, configuration(otherKey+".", s.Other))
	}
	if s.Packet != nil {
		for _, p := range s.Packet.Short().Given() {
			add(packetKey+p.Name, p.Value)
		}
	}
	for _, open := range []struct{ key, value string }{{formKey, s.Form}, {viewKey, s.View}} {
		if open.value == "" {
			continue
		}
		err = errors.Join(err, word(open.key, open.value))
		add(open.key, open.value)
	}
	text := strings.Join(out, "&")
	if err == nil && len(text) > most {
		err = ErrTooLong
	}
	if err != nil {
		return "", err
	}
	return text, nil
}

// URL is the whole address.
func (s State) URL() (string, error) {
	text, err := s.Encode()
	if err != nil {
		return "", err
	}
	return Page + "#" + text, nil
}

// Decode reads what Encode wrote, or an address that ends in it. It says all that is wrong with a text. The values of fields
// and of the packet are not looked at.
func Decode(text string) (State, error) {
	if _, after, found := strings.Cut(text, "#"); found {
		text = after
	}
	if len(text) > most {
		return State{}, fmt.Errorf("it has %d bytes; %d are the most", len(text), most)
	}
	first, rest, _ := strings.Cut(text, "&")
	if first != version {
		return State{}, fmt.Errorf("%q is not the version of a link that is known here, %s; a newer page may read it",
			strict.Clip(first), version)
	}
	r := reader{state: State{Config: map[string]string{}}, seen: map[string]bool{}}
	for rest != "" {
		var item string
		item, rest, _ = strings.Cut(rest, "&")
		r.item(item)
	}
	if err := r.errs.Err(); err != nil {
		return State{}, err
	}
	return r.state, nil
}

type reader struct {
	state State
	seen  map[string]bool
	errs  strict.Errors
}

func (r *reader) item(item string) {
	key, value, found := strings.Cut(item, "=")
	value, err := url.PathUnescape(value)
	switch {
	case !found || err != nil:
		r.errs.Add(fmt.Errorf("%q is not key=value", strict.Clip(item)))
		return
	case r.seen[key]:
		r.errs.Add(fmt.Errorf("%s: given twice", strict.Clip(key)))
		return
	}
	r.seen[key] = true
	switch name, inPacket := strings.CutPrefix(key, packetKey); {
	case inPacket:
		if r.state.Packet == nil {
			r.state.Packet = &explain.Question{}
		}
		if !r.state.Packet.Set(name, value) {
			r.unknown(key)
		}
	case key == formKey:
		r.state.Form = value
		r.errs.Add(word(key, value))
	case key == viewKey:
		r.state.View = value
		r.errs.Add(word(key, value))
	case key == otherKey:
		r.other()
	default:
		r.field(key, value)
	}
}

func (r *reader) other() map[string]string {
	if r.state.Other == nil {
		r.state.Other = map[string]string{}
	}
	return r.state.Other
}

func (r *reader) field(key, value string) {
	name, other := strings.CutPrefix(key, otherKey+".")
	for _, f := range decode.Fields() {
		if f.Name != name {
			continue
		}
		to := r.state.Config
		if other {
			to = r.other()
		}
		to[f.Path] = value
		return
	}
	r.unknown(key)
}

func (r *reader) unknown(key string) {
	if r.errs.Full() {
		r.errs.Omit()
		return
	}
	var names []string
	for _, f := range decode.Fields() {
		names = append(names, f.Name)
	}
	r.errs.Add(fmt.Errorf("%s: unknown key; %s", strict.Clip(key), strict.Hint(key, names,
		"the keys are mesh-init's flags, and packet. before those of a packet")))
}

// word refuses what is not a short word.
func word(key, value string) error {
	if len(value) > 32 || strings.Trim(value, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("%s: %q is not a word of small letters, digits and dashes", key, strict.Clip(value))
	}
	return nil
}

// plain are the bytes that stand for themselves: those that neither a browser nor what shows an address takes for
// something else.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~:/,"

func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(plain, s[i]) >= 0 {
			b.WriteByte(s[i])
			continue
		}
		fmt.Fprintf(&b, "%%%02X", s[i])
	}
	return b.String()
}

package podspec

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/mesh-intercept/intercept"
	"github.com/mesh-intercept/intercept/internal/decode"
	"github.com/mesh-intercept/intercept/internal/strict"
)

// Limits say how far a pod's annotations may go: a bound for each field that has
// one, by the name of the field's annotation. They are about what the annotations
// come to, whichever of them says it: [ConfigField] is under them, too. A field
// that annotations leave as [Options.Defaults] has it is never refused.
//
// Nil Limits have no bounds. [DefaultLimits] are those of the plugin's entry.
type Limits map[string]Bound

// A Bound is how far one field may go. Not every field takes every bound:
// [Limits.Validate] tells.
type Bound interface {
	// String is the bound as the plugin's entry has it, in JSON.
	String() string
	// bound lets no other types in.
	bound()
}

// The bounds.
type (
	// Free is no bound.
	Free struct{}
	// Fixed is a field that annotations may not change.
	Fixed struct{}
	// Most is how many IDs or ports a list may hold.
	Most uint64
	// Network is how many addresses a list may hold of each family: as many as the
	// one network with a prefix of this length.
	Network int
	// OneOf are the values that there may be, or the names in a list. A name may
	// end in `*`, which stands for any ending.
	OneOf []string
	// NoneOf are values, or names, that there may not be.
	NoneOf []string
	// ByProperty is of exclusions that combine properties: one of each exclusion's
	// properties has to keep to the bound of the field that excludes by it alone.
	ByProperty struct{}
)

func (Free) bound()       {}
func (Fixed) bound()      {}
func (Most) bound()       {}
func (Network) bound()    {}
func (OneOf) bound()      {}
func (NoneOf) bound()     {}
func (ByProperty) bound() {}

// The words for bounds without a value.
const (
	FreeWord       = "free"
	FixedWord      = "fixed"
	ByPropertyWord = "by-property"
)

func (Free) String() string       { return strconv.Quote(FreeWord) }
func (Fixed) String() string      { return strconv.Quote(FixedWord) }
func (b Most) String() string     { return strconv.FormatUint(uint64(b), 10) }
func (b Network) String() string  { return fmt.Sprintf(`"/%d"`, int(b)) }
func (b OneOf) String() string    { return quoted("", b) }
func (b NoneOf) String() string   { return quoted("!", b) }
func (ByProperty) String() string { return strconv.Quote(ByPropertyWord) }

func quoted(before string, names []string) string {
	all := make([]string, len(names))
	for i, n := range names {
		all[i] = strconv.Quote(before + n)
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// DefaultLimits are those of a node whose configuration says nothing: what a
// sidecar's users ask for in earnest is allowed, and refused is what makes nearly
// everybody the proxy, or leaves nearly everything alone.
func DefaultLimits() Limits {
	const owners, ports, network = Most(1000), Most(16384), Network(6)
	return Limits{
		"proxy-uid":               Most(16),
		"proxy-gid":               Most(16),
		"allow-root-proxy":        Fixed{},
		"inbound-exclude-ports":   ports,
		"inbound-exclude-sources": network,
		"inbound-exclude":         ByProperty{},
		"outbound-exclude-cidrs":  network,
		"outbound-exclude-ports":  ports,
		"outbound-exclude":        ByProperty{},
		"exclude-uids":            owners,
		"exclude-gids":            owners,
		// The pod's own interface in Kubernetes.
		"exclude-interfaces": NoneOf{"eth0"},
		"virtual-interfaces": NoneOf{"eth0"},
	}
}

// LimitError is a field that annotations take further than the node lets them.
type LimitError struct {
	// Name is the field's in the Limits, and Bound what they have for it.
	Name  string
	Bound Bound
	// Value is what was asked for, as an error quotes it.
	Value string
	// why says what is too much about it.
	why string
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s %s; ask for less, or have the node's operator set %q in annotationLimits (docs/cni.md), "+
		"where it is %s", e.Value, e.why, e.Name, e.Bound)
}

// Validate reports bounds of fields that there are not, and bounds that a field
// does not take. The errors are joined, in the order of the names.
func (l Limits) Validate() error {
	var errs strict.Errors
	for _, name := range slices.Sorted(maps.Keys(l)) {
		errs.Add(strict.Under(strict.Clip(name), validate(name, l[name])))
	}
	return errs.Err()
}

func validate(name string, b Bound) error {
	all := decode.Fields()
	i := slices.IndexFunc(all, func(f decode.Field) bool { return f.Name == name })
	if i < 0 {
		names := make([]string, len(all))
		for i, f := range all {
			names[i] = f.Name
		}
		return fmt.Errorf("no annotation of a field; %s", strict.Hint(name, names, "docs/cni.md lists those there are"))
	}
	takes := bounds(all[i])
	var values []string
	kind := b
	switch b := b.(type) {
	case OneOf:
		kind, values = OneOf(nil), b
	case NoneOf:
		kind, values = NoneOf(nil), b
	case Network:
		kind = Network(0)
		if b < 0 || b > 32 {
			return fmt.Errorf("%s is not the length of an IPv4 prefix, /0 to /32", b)
		}
	case Most:
		kind = Most(0)
	case Free, Fixed, ByProperty:
	}
	if !slices.ContainsFunc(takes, func(t Bound) bool { return reflect.TypeOf(t) == reflect.TypeOf(kind) }) {
		return fmt.Errorf("%s is no bound of this annotation; write %s", b, forms(takes))
	}
	choices := all[i].Choices()
	for _, v := range values {
		if choices != nil && !slices.Contains(choices, v) {
			return fmt.Errorf("%q is not one of %s", strict.Clip(v), strings.Join(choices, ", "))
		}
	}
	return nil
}

// bounds are the bounds that a field takes, each with a value of no account.
func bounds(f decode.Field) []Bound {
	takes := []Bound{Free{}, Fixed{}}
	switch value(intercept.Config{}, f.Path).(type) {
	case intercept.IDs, intercept.Ports:
		takes = append(takes, Most(0))
	case intercept.CIDRs:
		takes = append(takes, Network(0))
	case []intercept.Exclusion, []intercept.InboundExclusion:
		takes = append(takes, ByProperty{})
	case []string:
		takes = append(takes, OneOf(nil), NoneOf(nil))
	default:
		if f.Choices() != nil {
			takes = append(takes, OneOf(nil), NoneOf(nil))
		}
	}
	return takes
}

// forms says how bounds are written.
func forms(all []Bound) string {
	var texts []string
	for _, b := range all {
		switch b.(type) {
		case Free, Fixed, ByProperty:
			texts = append(texts, b.String())
		case Most:
			texts = append(texts, "a number")
		case Network:
			texts = append(texts, `a prefix length, as in "/8"`)
		case OneOf:
			texts = append(texts, "a list of what there may be")
		case NoneOf:
			texts = append(texts, `a list of what there may not be, each with ! before it`)
		}
	}
	return strings.Join(texts, ", ")
}

// value is a field of a configuration.
func value(c intercept.Config, path string) any {
	return strict.Lookup(reflect.ValueOf(c), path).Interface()
}

// judge reports the fields that are not as in the defaults and go beyond their
// bounds. The errors joined are of type [*intercept.FieldError] around
// [*LimitError].
func (l Limits) judge(defaults, c intercept.Config) error {
	var errs []error
	for _, f := range decode.Fields() {
		bound, ok := l[f.Name]
		if !ok {
			continue
		}
		had, has := value(defaults, f.Path), value(c, f.Path)
		text := strict.Text(has)
		if text == strict.Text(had) {
			continue
		}
		refused, why := "", ""
		switch bound := bound.(type) {
		case Free:
		case Fixed:
			why = "is not for annotations to choose, and the node has " + strict.Clip(strict.Text(had))
		case ByProperty:
			refused, why = l.judgeRules(had, has)
		case Most, Network, OneOf, NoneOf:
			refused, why = beyond(bound, has)
		}
		if why != "" {
			e := &LimitError{f.Name, bound, strconv.Quote(strict.Clip(cmp.Or(refused, text))), why}
			errs = append(errs, &intercept.FieldError{Field: f.Path, Err: e})
		}
	}
	return errors.Join(errs...)
}

// beyond says why a value goes beyond a bound, and which part of it does; why is
// "" if it does not.
func beyond(b Bound, v any) (part, why string) {
	switch b := b.(type) {
	case Most:
		if n, what := count(v); n > uint64(b) {
			return "", fmt.Sprintf("is %d %s, and annotations may name %d", n, what, uint64(b))
		}
	case Network:
		for _, f := range []intercept.Family{intercept.IPv4, intercept.IPv6} {
			if list, ok := v.(intercept.CIDRs); ok && share(list.Of(f)) > math.Ldexp(1, -int(b)) {
				return "", fmt.Sprintf("is more of %s than annotations may name: together as many addresses as a /%d has",
					f, int(b))
			}
		}
	case OneOf:
		for _, name := range names(v) {
			if !slices.ContainsFunc(b, func(p string) bool { return matches(p, name) }) {
				return name, "is not one of those that annotations may name"
			}
		}
	case NoneOf:
		for _, name := range names(v) {
			if slices.ContainsFunc(b, func(p string) bool { return matches(p, name) || matches(name, p) }) {
				return name, "is not for annotations to name"
			}
		}
	case Free, Fixed, ByProperty:
	}
	return "", ""
}

// count is how many IDs or ports a list holds.
func count(v any) (n uint64, what string) {
	switch v := v.(type) {
	case intercept.IDs:
		return v.Count(), "IDs"
	case intercept.Ports:
		return uint64(v.Count()), "ports"
	}
	return 0, ""
}

// share is the part of all addresses of a family that a list of its networks holds.
func share(list intercept.CIDRs) float64 {
	sum := 0.0
	for _, r := range list.Merge() {
		for _, p := range r.Prefixes() {
			sum += math.Ldexp(1, -p.Bits())
		}
	}
	return sum
}

// names are the values that a field has: several only in a list of names.
func names(v any) []string {
	if list, ok := v.([]string); ok {
		return list
	}
	return []string{strict.Text(v)}
}

// matches reports whether a name is one that the pattern stands for. A name may
// be a pattern itself: then all that it stands for.
func matches(pattern, name string) bool {
	if stem, any := strings.CutSuffix(pattern, "*"); any {
		return strings.HasPrefix(name, stem)
	}
	return pattern == name
}

// property is one property of an exclusion, and the annotation that excludes by
// it alone.
type property struct {
	name  string
	value any // a list; empty: the exclusion does not have it
}

// properties are an exclusion's, the narrowest kinds first.
func properties(exclusion any) []property {
	switch e := exclusion.(type) {
	case intercept.Exclusion:
		return []property{{"outbound-exclude-cidrs", e.CIDRs}, {"exclude-uids", e.UIDs}, {"exclude-gids", e.GIDs},
			{"outbound-exclude-ports", e.Ports}}
	case intercept.InboundExclusion:
		return []property{{"inbound-exclude-sources", e.Sources}, {"inbound-exclude-ports", e.Ports}}
	}
	return nil
}

// judgeRules judges the exclusions that the defaults do not have. Those that keep
// to a bound by the same property are counted together, once: there can be many.
func (l Limits) judgeRules(had, has any) (rule, why string) {
	known := map[string]bool{}
	for _, e := range items(had) {
		known[strict.Text(e)] = true
	}
	together := map[string]reflect.Value{}
	for _, e := range items(has) {
		if known[strict.Text(e)] {
			continue
		}
		all := properties(e)
		i := slices.IndexFunc(all, func(p property) bool {
			_, fixed := l[p.name].(Fixed)
			_, why := beyond(l[p.name], p.value)
			return !fixed && why == "" && reflect.ValueOf(p.value).Len() > 0
		})
		if i < 0 {
			return strict.Text(e), "leaves too much alone: none of its properties keeps to the limit of the annotation that " +
				"excludes by it alone"
		}
		value := reflect.ValueOf(all[i].value)
		if sum, ok := together[all[i].name]; ok {
			value = reflect.AppendSlice(sum, value)
		}
		together[all[i].name] = value
	}
	for _, name := range slices.Sorted(maps.Keys(together)) {
		if _, why := beyond(l[name], together[name].Interface()); why != "" {
			return "", fmt.Sprintf("together leaves too much alone: its part in %s %s", name, why)
		}
	}
	return "", ""
}

// items are the elements of a list.
func items(list any) []any {
	v := reflect.ValueOf(list)
	all := make([]any, v.Len())
	for i := range all {
		all[i] = v.Index(i).Interface()
	}
	return all
}

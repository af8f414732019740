//go:build linux

package peers

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// fates are what flows met, by their names.
type fates map[string]string

// Records are read and written as text: sets as headings, fates, and below them the flows that met them. The first set
// has all flows, the others those that meet another fate than in the first. A flow that meets one fate in both families
// stands there once, without its family.
//
//	# default: -p 4143 -o 4140
//	redirect(4140)
//	    tcp app>outside:80, tcp root>outside:443
func writeRecord(head string, sets []Set, all map[string]fates, order []flow) string {
	var b strings.Builder
	b.WriteString(head)
	var first fates
	for _, s := range sets {
		f := all[s.Name]
		fmt.Fprintf(&b, "\n# %s:", s.Name)
		for _, args := range s.Before {
			fmt.Fprintf(&b, " %s;", strings.Join(args, " "))
		}
		fmt.Fprintf(&b, " %s\n", strings.Join(s.Args, " "))
		by := map[string][]string{}
		for _, flow := range order {
			if fate := f[flow.name]; first == nil || fate != first[flow.name] {
				by[fate] = append(by[fate], flow.name)
			}
		}
		if first == nil {
			first = f
		}
		for _, fate := range slices.Sorted(maps.Keys(by)) {
			fmt.Fprintln(&b, fate)
			line := "   "
			names := joinFamilies(by[fate])
			for i, name := range names {
				if i < len(names)-1 {
					name += ","
				}
				if len(line)+len(name) > 118 {
					fmt.Fprintln(&b, line)
					line = "   "
				}
				line += " " + name
			}
			fmt.Fprintln(&b, line)
		}
	}
	return b.String()
}

// joinFamilies makes one name of those of both families.
func joinFamilies(names []string) []string {
	var joined []string
	for _, name := range names {
		protocol, way, _ := strings.Cut(name, " ")
		short := protocol[:3] + " " + way
		switch both := slices.Contains(names, protocol[:3]+"4 "+way) && slices.Contains(names, protocol[:3]+"6 "+way); {
		case !both:
			joined = append(joined, name)
		case protocol[3] == '4':
			joined = append(joined, short)
		}
	}
	return joined
}

// readRecord returns the fates by the names of the sets.
func readRecord(text string) (map[string]fates, error) {
	all := map[string]fates{}
	var first, set fates
	fate := ""
	for i, line := range strings.Split(text, "\n") {
		flows, isFlows := strings.CutPrefix(line, "    ")
		heading, isSet := strings.CutPrefix(line, "# ")
		switch {
		case isSet:
			name, _, _ := strings.Cut(heading, ":")
			set = maps.Clone(first)
			if set == nil {
				set = fates{}
				first = set
			}
			all[name] = set
		case strings.TrimSpace(line) == "" || strings.HasPrefix(line, "//"):
		case set == nil:
			return nil, fmt.Errorf("line %d: no set begins before it", i+1)
		case !isFlows:
			fate = line
		default:
			for name := range strings.SplitSeq(strings.TrimSuffix(flows, ","), ", ") {
				protocol, way, ok := strings.Cut(name, " ")
				if !ok {
					return nil, fmt.Errorf("line %d: %q is no flow", i+1, name)
				}
				if len(protocol) > len("tcp") {
					set[name] = fate
					continue
				}
				set[protocol+"4 "+way], set[protocol+"6 "+way] = fate, fate
			}
		}
	}
	return all, nil
}

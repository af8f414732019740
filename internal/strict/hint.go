package strict

import (
	"slices"
	"strings"
	"unicode"
)

// maxName is the length from which a name is none that somebody misspelt.
const maxName = 64

// Hint asks whether one of the candidates was meant by a name that is none of
// them, or says what else helps. It goes by meaning before letters: it prefers
// the candidates that have all of the name's words, whatever their order, then
// those that have others' words for them, and only then the most similar one.
func Hint(name string, candidates []string, otherwise string) string {
	if len(name) >= maxName {
		return otherwise
	}
	own := words(name)
	if len(own) == 0 {
		return otherwise
	}
	s := NewSpelling(candidates)
	meant := s.withWords(own)
	if len(meant) == 0 {
		meant = s.withWords(translate(own))
	}
	if len(meant) == 0 {
		meant = s.similar(own)
	}
	if len(meant) == 0 || len(meant) > 3 {
		return otherwise
	}
	return didYouMean(s.named(meant))
}

// Spelling knows names by their letters.
type Spelling struct {
	names      []string
	words      [][]string
	joined     []string
	vocabulary map[string]bool
}

// NewSpelling returns one of some names.
func NewSpelling(names []string) Spelling {
	s := Spelling{names: names, vocabulary: map[string]bool{}}
	for _, name := range names {
		own := words(name)
		s.words, s.joined = append(s.words, own), append(s.joined, strings.Join(own, ""))
		for _, w := range own {
			s.vocabulary[w] = true
		}
	}
	return s
}

// Misspelt is the hint about a name that is nearly one of those known: it has two
// of one's words or more and no other, or all of them but for some letters. It is ""
// of a name that somebody may well have given something else.
func (s Spelling) Misspelt(name string) string {
	if len(name) >= maxName {
		return ""
	}
	own := words(name)
	for i, w := range own {
		if !s.vocabulary[w] && s.vocabulary[w+"s"] {
			own[i] = w + "s"
		}
	}
	meant := s.withWords(own)
	if len(own) == 1 || len(meant) == 0 {
		meant = s.similar(own)
	}
	// A word of two letters is like too many others: MESH_PROXY_ID.
	meant = slices.DeleteFunc(meant, func(i int) bool {
		return slices.ContainsFunc(own, func(w string) bool { return len(w) < 3 && !slices.Contains(s.words[i], w) })
	})
	if len(meant) == 0 {
		return ""
	}
	return didYouMean(s.named(meant[:min(len(meant), 3)]))
}

func (s Spelling) named(indexes []int) []string {
	var names []string
	for _, i := range indexes {
		names = append(names, s.names[i])
	}
	return names
}

func didYouMean(meant []string) string {
	last := len(meant) - 1
	if last == 0 {
		return "did you mean " + meant[0] + "?"
	}
	return "did you mean " + strings.Join(meant[:last], ", ") + " or " + meant[last] + "?"
}

// words are the parts of a name, in small letters: --exclude-uids, EXCLUDE_UIDS
// and excludeUIDs have the same two.
func words(name string) []string {
	var all []string
	var word []rune
	end := func() {
		if len(word) > 0 {
			all = append(all, strings.ToLower(string(word)))
		}
		word = nil
	}
	before := ' '
	for _, r := range name {
		switch {
		case !unicode.IsLetter(r) && !unicode.IsDigit(r):
			end()
		case unicode.IsUpper(r) && unicode.IsLower(before):
			end()
			word = append(word, r)
		default:
			word = append(word, r)
		}
		before = r
	}
	end()
	return slices.DeleteFunc(all, func(w string) bool { return w == "mesh" }) // of MESH_…
}

// withWords are the names that have all of some words, and the fewest others.
func (s Spelling) withWords(some []string) []int {
	if slices.ContainsFunc(some, func(w string) bool { return !s.vocabulary[w] }) {
		return nil
	}
	var best []int
	least := 3 // a name with more words that were not said is a guess
	for i, has := range s.words {
		if slices.ContainsFunc(some, func(w string) bool { return !slices.Contains(has, w) }) {
			continue
		}
		switch others := len(has) - len(some); {
		case others < least:
			best, least = []int{i}, others
		case others == least:
			best = append(best, i)
		}
	}
	if len(some) == 0 {
		return nil
	}
	return best
}

// otherNames are names that other programs have for our settings: the flags and
// annotations of istio, linkerd, kuma, consul and App Mesh. Each row begins with
// our words.
func otherNames() [][]string {
	return [][]string{
		{"outbound port", "p", "envoy port", "outgoing proxy port", "redirect outbound port", "proxy outbound port",
			"envoy egress port"},
		{"inbound port", "z", "inbound capture port", "incoming proxy port", "redirect inbound port", "proxy inbound port",
			"envoy ingress port"},
		{"tunnel port", "e", "inbound tunnel port"},
		{"dns port", "redirect dns port", "consul dns port"},
		{"proxy uid", "u", "kuma dp user", "sidecar uid", "ignore uid"},
		{"proxy gid", "g", "ignore gid"},
		{"inbound mode", "m", "istio inbound interception mode", "interception mode"},
		{"inbound include ports", "b", "istio inbound ports", "ports to redirect", "app ports"},
		{"inbound exclude ports", "d", "istio local exclude ports", "inbound ports to ignore", "exclude inbound port"},
		{"inbound exclude sources", "subnets to ignore", "skip subnets", "exclude inbound ips"},
		{"outbound include cidrs", "i", "istio service cidr"},
		{"outbound exclude cidrs", "x", "istio service exclude cidr", "egress ignored ip", "exclude outbound cidr"},
		{"outbound include ports", "q", "istio outbound ports"},
		{"outbound exclude ports", "o", "istio local outbound ports exclude", "outbound ports to ignore",
			"exclude outbound port"},
		{"outbound exclude", "exclude outbound ports for uids"},
		{"exclude uids", "exclude uid"},
		{"include gids", "istio outbound owner groups"},
		{"exclude gids", "istio outbound owner groups exclude"},
		{"exclude interfaces", "c", "istio exclude interfaces"},
		{"virtual interfaces", "k", "kube virt interfaces", "kubevirt interfaces", "reroute virtual interfaces", "vnet"},
		{"tproxy mark", "t", "istio inbound tproxy mark"},
		{"tproxy table", "r", "istio inbound tproxy route table"},
		{"dns", "redirect dns", "capture all dns", "redirect all dns traffic"},
		{"drop invalid", "drop invalid packets", "invalid drop"},
		{"families", "ip family mode", "dual stack", "ipv6", "enable ipv6"},
		{"loopback", "istio outbound ipv4 loopback cidr"},
		{"netns", "network namespace"},
		{"dry run", "simulate"},
		{"remove", "cleanup", "cleanup only"},
	}
}

// otherWords are others' words for ours, with which each row begins.
func otherWords() [][]string {
	return [][]string{
		{"outbound", "egress", "outgoing", "out"},
		{"inbound", "ingress", "incoming", "in"},
		{"exclude", "excluded", "exclusion", "except", "ignore", "ignored", "skip", "bypass"},
		{"include", "included", "inclusion", "capture", "only"},
		{"cidrs", "cidr", "ip", "ips", "range", "ranges", "ipranges", "subnet", "subnets", "networks", "destinations"},
		{"sources", "clients"},
		{"uid", "user"}, {"uids", "users"}, {"gid", "group"}, {"gids", "groups"},
		{"interfaces", "nic", "nics", "iface", "ifaces"},
		{"servers", "nameserver", "nameservers", "resolvers"},
		{"proxy", "envoy", "sidecar"},
		{"netns", "namespace"},
		{"apply", "install", "setup"}, {"remove", "delete", "uninstall"}, {"status", "show", "stats", "counters"},
		{"explain", "trace"}, {"render", "print"}, {"check", "validate"},
	}
}

// ours returns what a table has for a name, or the name.
func ours(table [][]string, name string) string {
	for _, row := range table {
		if slices.Contains(row[1:], name) {
			return row[0]
		}
	}
	return name
}

// translate says in our words what a name of another program says in its own.
func translate(own []string) []string {
	whole := strings.Join(own, " ")
	if known := ours(otherNames(), whole); known != whole {
		return strings.Fields(known)
	}
	out, table := make([]string, len(own)), otherWords()
	for i, w := range own {
		out[i] = ours(table, w)
	}
	slices.Sort(out)
	return slices.Compact(out) // outboundIPRanges: cidrs once
}

// similar are the names that are most like another, letter by letter and word by
// word. A word that is in any of them is not misspelt: neither is cidrs taken for
// uids, nor include for exclude.
func (s Spelling) similar(own []string) []int {
	var best []int
	least, joined := maxName, strings.Join(own, "")
	for i := range s.names {
		var d int
		if len(own) == len(s.words[i]) {
			d = s.difference(own, s.words[i], 3) // one letter of so many may be wrong
		} else { // words run together, or apart
			d = s.difference([]string{joined}, s.joined[i:i+1], 5)
		}
		if d < least {
			best, least = nil, d
		}
		if d == least && d < maxName {
			best = append(best, i)
		}
	}
	return best
}

// difference is the number of letters by which the words of two names differ,
// or maxName if they are not alike.
func (s Spelling) difference(a, b []string, part int) int {
	sum := 0
	for i, w := range a {
		most := max(1, len(w)/part)
		if most < len(w)-len(b[i]) || most < len(b[i])-len(w) {
			return maxName
		}
		d := distance(w, b[i])
		plural := w+"s" == b[i] || w == b[i]+"s"
		if d > most || d >= len(w) || d > 0 && !plural && s.vocabulary[w] {
			return maxName
		}
		sum += d
	}
	return sum
}

// distance is the number of letters to insert, delete, replace, or exchange with
// the next one, to make b of a.
func distance(a, b string) int {
	if len(b) >= maxName {
		return maxName
	}
	var rows [3][maxName]int
	before, row, next := rows[0][:len(b)+1], rows[1][:len(b)+1], rows[2][:len(b)+1]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next[0] = i + 1
		for j := range len(b) {
			cost := row[j]
			if a[i] != b[j] {
				cost++
			}
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				cost = min(cost, before[j-1]+1)
			}
			next[j+1] = min(cost, next[j]+1, row[j+1]+1)
		}
		before, row, next = row, next, before
	}
	return row[len(b)]
}

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
	meant := withWords(own, candidates)
	if len(meant) == 0 {
		meant = withWords(translate(own), candidates)
	}
	if len(meant) == 0 {
		meant = similar(own, candidates)
	}
	switch {
	case len(meant) == 0 || len(meant) > 3:
		return otherwise
	case len(meant) == 1:
		return "did you mean " + meant[0] + "?"
	}
	last := len(meant) - 1
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

// withWords are the candidates that have all of some words, and the fewest others.
func withWords(some []string, candidates []string) []string {
	var best []string
	least := 3 // a name with more words that were not said is a guess
	for _, c := range candidates {
		has := words(c)
		if slices.ContainsFunc(some, func(w string) bool { return !slices.Contains(has, w) }) {
			continue
		}
		switch others := len(has) - len(some); {
		case others < least:
			best, least = []string{c}, others
		case others == least:
			best = append(best, c)
		}
	}
	if len(some) == 0 {
		return nil
	}
	return best
}

// theirs are names that other programs have for our settings: the flags and
// annotations of istio, linkerd, kuma, consul and App Mesh.
func theirs() map[string]string {
	return map[string]string{
		"p": "outbound port", "envoy port": "outbound port", "outgoing proxy port": "outbound port",
		"redirect outbound port": "outbound port", "proxy outbound port": "outbound port", "envoy egress port": "outbound port",
		"z": "inbound port", "inbound capture port": "inbound port", "incoming proxy port": "inbound port",
		"redirect inbound port": "inbound port", "proxy inbound port": "inbound port", "envoy ingress port": "inbound port",
		"e": "tunnel port", "inbound tunnel port": "tunnel port",
		"redirect dns port": "dns port", "consul dns port": "dns port",
		"u": "proxy uid", "kuma dp user": "proxy uid", "sidecar uid": "proxy uid", "ignore uid": "proxy uid",
		"g": "proxy gid", "ignore gid": "proxy gid",
		"m": "inbound mode", "istio inbound interception mode": "inbound mode", "interception mode": "inbound mode",
		"b": "inbound include ports", "istio inbound ports": "inbound include ports", "ports to redirect": "inbound include ports",
		"app ports": "inbound include ports",
		"d":         "inbound exclude ports", "istio local exclude ports": "inbound exclude ports",
		"inbound ports to ignore": "inbound exclude ports", "exclude inbound port": "inbound exclude ports",
		"subnets to ignore": "inbound exclude sources", "skip subnets": "inbound exclude sources",
		"exclude inbound ips": "inbound exclude sources",
		"i":                   "outbound include cidrs", "istio service cidr": "outbound include cidrs",
		"x": "outbound exclude cidrs", "istio service exclude cidr": "outbound exclude cidrs",
		"egress ignored ip": "outbound exclude cidrs", "exclude outbound cidr": "outbound exclude cidrs",
		"q": "outbound include ports", "istio outbound ports": "outbound include ports",
		"o": "outbound exclude ports", "istio local outbound ports exclude": "outbound exclude ports",
		"outbound ports to ignore": "outbound exclude ports", "exclude outbound port": "outbound exclude ports",
		"egress ignored ports":            "outbound exclude ports",
		"exclude outbound ports for uids": "outbound exclude", "exclude uid": "exclude uids",
		"c": "exclude interfaces", "istio exclude interfaces": "exclude interfaces",
		"k": "virtual interfaces", "kube virt interfaces": "virtual interfaces", "kubevirt interfaces": "virtual interfaces",
		"reroute virtual interfaces": "virtual interfaces", "vnet": "virtual interfaces",
		"t": "tproxy mark", "istio inbound tproxy mark": "tproxy mark",
		"r": "tproxy table", "istio inbound tproxy route table": "tproxy table",
		"redirect dns": "dns", "capture all dns": "dns", "redirect all dns traffic": "dns",
		"drop invalid packets": "drop invalid", "invalid drop": "drop invalid",
		"ip family mode": "families", "dual stack": "families", "ipv6": "families", "enable ipv6": "families",
		"network namespace": "netns", "simulate": "dry run", "cleanup only": "remove", "cleanup": "remove",
		"istio outbound owner groups": "include gids", "istio outbound owner groups exclude": "exclude gids",
		"istio outbound ipv4 loopback cidr": "loopback", "skip outbound ports": "outbound exclude ports",
		"skip inbound ports": "inbound exclude ports",
	}
}

// synonyms are other words for ours.
func synonyms() map[string]string {
	return map[string]string{
		"egress": "outbound", "outgoing": "outbound", "out": "outbound",
		"ingress": "inbound", "incoming": "inbound", "in": "inbound",
		"ignore": "exclude", "ignored": "exclude", "skip": "exclude", "bypass": "exclude", "exclusion": "exclude", "except": "exclude",
		"excluded": "exclude", "included": "include", "capture": "include", "only": "include", "inclusion": "include",
		"ip": "cidrs", "ips": "cidrs", "cidr": "cidrs", "range": "cidrs", "ranges": "cidrs", "ipranges": "cidrs", "subnet": "cidrs", "subnets": "cidrs",
		"networks": "cidrs", "destinations": "cidrs", "clients": "sources",
		"user": "uid", "users": "uids", "group": "gid", "groups": "gids",
		"nic": "interfaces", "nics": "interfaces", "iface": "interfaces", "ifaces": "interfaces",
		"nameserver": "servers", "nameservers": "servers", "resolvers": "servers", "envoy": "proxy", "sidecar": "proxy",
		"namespace": "netns", "delete": "remove", "uninstall": "remove", "install": "apply", "setup": "apply", "show": "status",
		"stats": "status", "counters": "status", "trace": "explain", "print": "render", "validate": "check",
	}
}

// translate says in our words what a name of another program says in its own.
func translate(own []string) []string {
	if known, ok := theirs()[strings.Join(own, " ")]; ok {
		return strings.Fields(known)
	}
	out, words := make([]string, len(own)), synonyms()
	for i, w := range own {
		out[i] = w
		if ours, ok := words[w]; ok {
			out[i] = ours
		}
	}
	slices.Sort(out)
	return slices.Compact(out) // outboundIPRanges: cidrs once
}

// similar are the candidates that are most like a name, letter by letter and
// word by word. A word that is in any of them is not misspelt: neither is cidrs
// taken for uids, nor include for exclude.
func similar(own []string, candidates []string) []string {
	var vocabulary []string
	for _, c := range candidates {
		vocabulary = append(vocabulary, words(c)...)
	}
	var best []string
	least := maxName
	for _, c := range candidates {
		d := difference(own, words(c), vocabulary)
		if d < least {
			best, least = nil, d
		}
		if d == least && d < maxName {
			best = append(best, c)
		}
	}
	return best
}

// difference is the number of letters by which the words of two names differ,
// or maxName if they are not alike.
func difference(a, b, vocabulary []string) int {
	part := 3             // one letter of so many may be wrong
	if len(a) != len(b) { // words run together, or apart
		a, b, part = []string{strings.Join(a, "")}, []string{strings.Join(b, "")}, 5
	}
	sum := 0
	for i, w := range a {
		d := distance(w, b[i])
		plural := w+"s" == b[i] || w == b[i]+"s"
		if d > max(1, len(w)/part) || d >= len(w) || d > 0 && !plural && slices.Contains(vocabulary, w) {
			return maxName
		}
		sum += d
	}
	return sum
}

// distance is the number of letters to insert, delete or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

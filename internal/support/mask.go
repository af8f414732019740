package support

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/mesh-intercept/intercept/internal/strict"
)

// Mask hides addresses, names and secrets in all parts. What is the same before is the same after, and addresses of one
// network are in one network after: so rules can still be read. key makes it impossible to find out which address it
// was by trying all of them; it is to be random and forgotten.
func (d *Document) Mask(key [2]uint64) {
	m := masker{key: key, names: map[string]string{}, count: map[string]int{}, addrs: map[netip.Addr]netip.Addr{}}
	m.whole, m.begin = known()
	names := slices.Sorted(maps.Keys(d.Parts)) // so that equal documents have equal pseudonyms
	for _, name := range names {
		if p := d.Parts[name]; p.Value != nil {
			m.learn([]string{name}, p.Value.Node)
		}
	}
	d.Masked = true
	for _, name := range names {
		p := d.Parts[name]
		p.Error = m.text(p.Error)
		if p.Value != nil {
			p.Value.Node = m.node(p.Value.Node)
		}
	}
}

type masker struct {
	key [2]uint64
	// names are what others may stand for, and what stands for them; count is how many there are of a kind.
	names map[string]string
	count map[string]int
	addrs map[netip.Addr]netip.Addr
	// whole and begin are those of known.
	whole, begin []netip.Prefix
}

// pseudonym is what stands for a word, such as interface-1.
func (m masker) pseudonym(kind, word string) string {
	if m.names[word] == "" {
		m.count[kind]++
		m.names[word] = fmt.Sprintf("%s-%d", kind, m.count[kind])
	}
	return m.names[word]
}

// learn finds the names: what is at certain paths.
func (m masker) learn(path []string, n strict.Node) {
	if n.Value("owners").Kind == strict.List {
		return // a product that everybody can have, and whose names say which
	}
	for _, f := range n.Fields {
		m.learn(append(path, f.Name), f.Value)
	}
	for _, item := range n.Items {
		m.learn(path, item)
	}
	if n.Kind != strict.Scalar || n.Bare || n.Text == "" {
		return
	}
	within := func(name string) bool { return slices.Contains(path, name) }
	switch field := path[len(path)-1]; {
	case field == "name" && path[0] == "interfaces", field == "excludeInterfaces", field == "virtualInterfaces":
		m.learnUnless("interface", n.Text, isCommonInterface)
	case field == "process" && within("listeners"):
		m.learnUnless("process", n.Text, isCommonProcess)
	case (field == "table" || field == "chain") && (within("foreign") || within("others")):
		m.learnUnless(field, n.Text, isCommonTable)
	case field == "cgroup":
		_, groups, _ := strings.Cut(n.Text, "/")
		for group := range strings.SplitSeq(groups, "/") {
			m.learnUnless("group", group, isCommonGroup)
		}
	case field == "sources", within("origins"):
		m.learnUnless("file", n.Text, func(s string) bool {
			return strings.HasPrefix(s, "--") || strings.HasPrefix(s, "MESH_") || s == "standard input"
		})
	}
}

func (m masker) learnUnless(kind, word string, common func(string) bool) {
	if word != "" && !common(word) {
		m.pseudonym(kind, word)
	}
}

// begins reports whether a word is one of these, with nothing but digits, * and a few separators behind it.
func begins(word string, with ...string) bool {
	for _, w := range with {
		if rest, ok := strings.CutPrefix(word, w); ok && strings.Trim(rest, "0123456789-_.*") == "" {
			return true
		}
	}
	return false
}

func isCommonInterface(name string) bool {
	return begins(name, "lo", "eth", "ens", "enp", "eno", "wlan", "veth", "br-", "br",
		"bond", "tun", "tap", "wg", "dummy", "docker", "cni", "cbr", "cali", "lxc", "flannel.", "vxlan", "ifb", "vnet",
		"sit", "gre", "ip6tnl", "tunl", "kube-ipvs", "kube-bridge", "nodelocaldns", "cilium_host", "cilium_net")
}

func isCommonProcess(name string) bool {
	return begins(name, "envoy", "pilot-agent", "pilot-discovery", "haproxy", "nginx", "linkerd2-proxy", "linkerd-proxy",
		"kuma-dp", "dnsmasq", "coredns", "systemd", "systemd-resolve", "sshd", "kubelet", "kube-proxy", "containerd",
		"dockerd", "mesh-init", "mesh-probe", "mesh-cni-agent", "mesh-injector", "ztunnel", "node", "java", "python",
		"postgres", "mysqld", "redis-server")
}

func isCommonTable(name string) bool {
	switch strings.ToLower(name) {
	case "filter", "nat", "mangle", "raw", "security", "input", "output", "forward", "prerouting", "postrouting",
		"ingress":
		return true
	}
	return false
}

// isCommonTarget reports what everybody's rules jump to.
func isCommonTarget(name string) bool {
	switch name {
	case "ACCEPT", "DROP", "RETURN", "REJECT", "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "TPROXY", "MARK", "CONNMARK",
		"LOG",
		"NFLOG", "NFQUEUE", "CT", "TCPMSS", "TRACE":
		return true
	}
	for _, prefix := range []string{"MESH_", "KUBE-", "CNI-", "cali-", "DOCKER", "ISTIO_", "PROXY_INIT_", "KUMA_",
		"CILIUM_",
		"LIBVIRT_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func isCommonGroup(name string) bool {
	return begins(name, "kubepods", "kubepods.slice", "besteffort", "burstable", "guaranteed", "kubepods-besteffort.slice",
		"kubepods-burstable.slice", "system.slice", "user.slice", "init.scope", "docker", "crio", "machine.slice", "..")
}

// node hides what a piece of JSON says. Names of fields are ours.
func (m masker) node(n strict.Node) strict.Node {
	if n.Kind == strict.Scalar && !n.Bare {
		n.Text = m.text(n.Text)
	}
	for i := range n.Items {
		n.Items[i] = m.node(n.Items[i])
	}
	for i := range n.Fields {
		n.Fields[i].Value = m.node(n.Fields[i].Value)
	}
	return n
}

// text hides what a text says: names that were learned, addresses, files, what looks like an ID, and what follows a
// word for a secret or a comment.
func (m masker) text(s string) string {
	if known, ok := m.names[s]; ok {
		return known
	}
	var out strings.Builder
	last, before := byte(' '), "" // what stands before: a byte, and a word with nothing but spaces and the like behind it
	for s != "" {
		length, masked := m.next(s, last, before)
		out.WriteString(masked)
		last = s[length-1]
		if piece := s[:length]; strings.Trim(piece, " =:\"'") != "" {
			before = piece
		}
		s = s[length:]
	}
	return out.String()
}

// next takes a piece of a text, and returns its length and what stands for it.
func (m masker) next(s string, last byte, before string) (length int, masked string) {
	switch word := strings.TrimLeft(before, "-"); {
	case word == "comment" && s[0] != ' ' && s[0] != '-':
		return argument(s), `"masked"`
	case isSecret(before) && (isWord(s[0]) || s[0] == '"'):
		return argument(s), "secret"
	}
	if s[0] == '/' && len(s) > 1 && isWord(s[1]) && strings.IndexByte(" \"'(=", last) >= 0 {
		for length < len(s) && (s[length] == '/' || isWord(s[length])) {
			length++
		}
		for _, known := range []string{"/proc/", "/sys/", "/usr/", "/sbin/", "/bin/", "/etc/", "/dev/"} {
			if strings.HasPrefix(s, known) {
				return length, s[:length]
			}
		}
		return length, m.pseudonym("file", s[:length])
	}
	if !isWord(last) || last == '-' {
		if masked, length := m.address(s); length > 0 {
			return length, masked
		}
	}
	for length < len(s) && isWord(s[length]) {
		length++
	}
	if length == 0 || (s[0] == '-' || s[0] == '.') && isWord(last) { // what comes next can be an address, or a name
		return 1, s[:1]
	}
	word := strings.TrimRight(s[:length], ".") // which ends a sentence
	if word == "" {
		return length, s[:length]
	}
	switch known := m.names[word]; {
	case known != "":
		return len(word), known
	case isID(word):
		return len(word), m.pseudonym("id", word)
	case (before == "-j" || before == "-g") && !isCommonTarget(word):
		return len(word), m.pseudonym("chain", word)
	}
	if i := strings.IndexAny(word[1:], "-."); i >= 0 && strings.Trim(word[:1+i], "-") != "" {
		word = word[:1+i]
	}
	return len(word), word
}

// argument is how long the first argument of a text is, with its quotes.
func argument(s string) int {
	if s[0] != '"' {
		if end := strings.IndexByte(s, ' '); end > 0 {
			return end
		}
		return len(s)
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("_-.@", c) >= 0 ||
		c >= 0x80
}

// isID reports what nobody would write by hand: a UUID, or twenty letters and digits in a row.
func isID(word string) bool {
	run, digits, letters := 0, 0, 0
	for _, c := range word + "." {
		switch {
		case c >= '0' && c <= '9':
			run, digits = run+1, digits+1
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
			run, letters = run+1, letters+1
		case c == '-' || c == '_': // as in a UUID, and in a pod's cgroup
		default:
			run, digits, letters = 0, 0, 0
		}
		if run >= 20 && digits >= 4 && letters > 0 {
			return true
		}
	}
	return false
}

func isSecret(word string) bool {
	word = strings.ToLower(word)
	for _, s := range []string{"password", "passwd", "secret", "token", "apikey", "api_key", "bearer"} {
		if strings.HasSuffix(word, s) {
			return true
		}
	}
	return false
}

// address returns what stands for the address with which s begins, and how long that is in s. Zero: it begins with
// none.
func (m masker) address(s string) (masked string, length int) {
	for length < len(s) && strings.IndexByte("0123456789abcdefABCDEF:.", s[length]) >= 0 {
		length++
	}
	if length < 2 || length < len(s) && isWord(s[length]) && s[length] != '-' {
		return "", 0
	}
	word := strings.TrimRight(s[:length], ".:")
	if strings.HasSuffix(s[:length], "::") {
		word = s[:length]
	}
	if strings.Count(word, ":") == 5 && len(word) == 17 {
		return m.pseudonym("mac", word), len(word)
	}
	a, err := netip.ParseAddr(word)
	if err != nil {
		word, _, _ = strings.Cut(word, ":") // an address of IPv4, and a port
		if a, err = netip.ParseAddr(word); err != nil {
			return "", 0
		}
	}
	out := m.addr(a)
	if out == a {
		return word, len(word)
	}
	// An address that is its network's stays one.
	rest, isPrefix := strings.CutPrefix(s[len(word):], "/")
	if bits := leadingNumber(rest); isPrefix && bits >= 0 && bits <= a.BitLen() {
		if p := netip.PrefixFrom(a, bits); p.Masked() == p {
			out = netip.PrefixFrom(out, bits).Masked().Addr()
		}
	}
	return out.String(), len(word)
}

func leadingNumber(s string) int {
	n := -1
	for _, c := range s {
		if c < '0' || c > '9' || n > 128 {
			break
		}
		n = max(n, 0)*10 + int(c-'0')
	}
	return n
}

// known are the networks that everybody has. The addresses of some say nothing, such as ::1, and ::6, which proxies bind;
// of others the beginning stays, so that an address is still private, or of one link.
func known() (whole, begin []netip.Prefix) {
	all := func(texts ...string) (list []netip.Prefix) {
		for _, t := range texts {
			list = append(list, netip.MustParsePrefix(t))
		}
		return list
	}
	return all("127.0.0.0/8", "0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "192.0.2.0/24", "198.51.100.0/24",
			"203.0.113.0/24", "::/125", "ff00::/8", "2001:db8::/32"),
		all("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fe80::/10", "fc00::/7",
			"::ffff:0:0/96", "64:ff9b::/96")
}

// addr is what stands for an address. Two that begin with the same bits still do, and no others: each bit is flipped or
// not by those before it, but for bits that tell the known networks from each other.
func (m masker) addr(a netip.Addr) netip.Addr {
	a = a.WithZone("")
	if known, ok := m.addrs[a]; ok {
		return known
	}
	for _, p := range m.whole {
		if p.Contains(a) {
			return a
		}
	}
	bytes := a.AsSlice()
	out := append([]byte(nil), bytes...)
	for bit := range a.BitLen() {
		before := netip.PrefixFrom(a, bit).Masked()
		if leads(before, m.whole) || leads(before, m.begin) {
			continue
		}
		at := before.Addr().As16()
		sum := sipHash(m.key, binary.BigEndian.Uint64(at[:]), binary.BigEndian.Uint64(at[8:]), uint64(bit))
		out[bit/8] ^= byte(sum&1) << (7 - bit%8)
	}
	masked, _ := netip.AddrFromSlice(out)
	m.addrs[a] = masked
	return masked
}

// leads reports whether the next bit tells whether an address is of one of the networks.
func leads(before netip.Prefix, networks []netip.Prefix) bool {
	for _, p := range networks {
		if p.Bits() > before.Bits() && before.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

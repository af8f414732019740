package support

import (
	"encoding/json"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept"
)

func testMasker() masker {
	m := masker{key: [2]uint64{7}, names: map[string]string{}, count: map[string]int{}, addrs: map[netip.Addr]netip.Addr{}}
	m.whole, m.begin = known()
	return m
}

// TestText: what is hidden in a text, and what stays as it is. A ~ in what is wanted stands for an address.
func TestText(t *testing.T) {
	m := testMasker()
	m.names["acme0"], m.names["payroll"], m.names["/srv/acme.yaml"] = "interface-1", "process-1", "file-1"
	for text, want := range map[string]string{
		"8.8.8.8": "~", "8.8.8.8:53": "~:53", "[2a02::7]:53": "[~]:53", "8.8.8.8-8.8.8.9": "~-~", "2a02::7/128": "~/128",
		"to 8.8.8.8.": "to ~.", "2a02::7: refused": "~: refused", "8.8.8.8,9.9.9.9": "~,~",
		"ip-8.8.8.8.ec2": "ip-8.8.8.8.ec2",
		"ip-8.8.8.8":     "ip-~", "addr=8.8.8.8": "addr=~", "(8.8.8.8)": "(~)",
		"0::/0 2001:db8::1 127.0.0.1:15001 0.0.0.0/0 ::/0 224.0.0.1": "0::/0 2001:db8::1 127.0.0.1:15001 0.0.0.0/0 ::/0 224.0.0.1",
		"acme0": "interface-1", "by acme0.": "by interface-1.", "I1.acme0 acme01": "I1.interface-1 acme01",
		"payroll, process 7": "process-1, process 7", "/srv/acme.yaml": "file-1", "read /home/al/x": "read file-1",
		"/proc/sys/net/ipv4 a/b": "/proc/sys/net/ipv4 a/b", "0::/": "0::/",
		"2026-11-29T03:09:56Z": "2026-11-29T03:09:56Z", "Linux 6.18.44-fc-v509, v1.2.3": "Linux 6.18.44-fc-v509, v1.2.3",
		"00:11:22:aa:bb:cc":                    "mac-1",
		"7f3c0b9e-1d2f-4a5b-8c6d-0123456789ab": "id-1", "x 0123456789abcdef0123456789abcdef": "x id-2",
		"token=abc password: \"x y\" done": "token=secret password: secret done", "Bearer eyJ0": "Bearer secret",
		`-m comment --comment "al \" x" -j ACME`:                 `-m comment --comment "masked" -j chain-1`,
		`comment "al" drop`:                                      `comment "masked" drop`,
		"--comment al -j DROP":                                   `--comment "masked" -j DROP`,
		"redirect(15001) by O12 (every destination is included)": "redirect(15001) by O12 (every destination is included)",
	} {
		m := m
		m.names, m.count = maps.Clone(m.names), map[string]int{}
		if strings.Contains(text, " 0123456789abcdef") {
			m.count["id"] = 1
		}
		m.addrs = map[netip.Addr]netip.Addr{}
		got := m.text(text)
		for from, to := range m.addrs {
			if from == to {
				t.Errorf("%q: %s stays", text, from)
			}
			got = strings.ReplaceAll(got, to.String(), "~")
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestAddresses: two addresses begin with the same bits as before, so each has its own, networks stay networks, and
// what is private or of a link is so still.
func TestAddresses(t *testing.T) {
	m := testMasker()
	random := rand.New(rand.NewPCG(1, 2))
	common := func(a, b netip.Addr) (bits int) {
		for bits < a.BitLen() && netip.PrefixFrom(a, bits+1).Masked() == netip.PrefixFrom(b, bits+1).Masked() {
			bits++
		}
		return bits
	}
	for _, text := range []string{"10.1.2.3", "172.20.1.2", "192.168.7.1", "8.8.8.8", "100.70.1.1", "172.64.1.1",
		"fd00::7",
		"fe80::1:2", "2a02::7", "169.254.169.254"} {
		a := netip.MustParseAddr(text)
		got := m.addr(a)
		if got == a || got.IsPrivate() != a.IsPrivate() || got.IsLinkLocalUnicast() != a.IsLinkLocalUnicast() {
			t.Errorf("%s: %s", a, got)
		}
		for range 40 {
			bytes := a.AsSlice()
			bytes[len(bytes)-1-random.IntN(3)] ^= byte(1 + random.IntN(255))
			b, _ := netip.AddrFromSlice(bytes)
			if common(a, b) != common(m.addr(a), m.addr(b)) {
				t.Fatalf("%s and %s: %s and %s", a, b, m.addr(a), m.addr(b))
			}
		}
	}
	network, inside := m.text("10.1.2.0/24"), m.text("10.1.2.77")
	if !netip.MustParsePrefix(network).Contains(netip.MustParseAddr(inside)) ||
		netip.MustParsePrefix(network).Masked().String() != network {
		t.Errorf("%s is not the network of %s", network, inside)
	}
	other := testMasker()
	other.key[1] = 9
	if other.addr(netip.MustParseAddr("8.8.8.8")) == m.addr(netip.MustParseAddr("8.8.8.8")) {
		t.Error("the key does not matter")
	}
}

// TestDefaults: what every configuration has from the start says nothing, and stays.
func TestDefaults(t *testing.T) {
	text, err := json.Marshal(intercept.Default())
	if err != nil {
		t.Fatal(err)
	}
	m := testMasker()
	if got := m.text(string(text)); got != string(text) || !strings.Contains(got, `"::6"`) {
		t.Errorf("%s\n%s", text, got)
	}
	for _, a := range []string{"::8", "::ff"} {
		if got := m.text(a); got == a {
			t.Errorf("%s stays", a)
		}
	}
}

// TestSipHash: the authors' example, a message of 8 bytes.
func TestSipHash(t *testing.T) {
	key := [2]uint64{0x0706050403020100, 0x0f0e0d0c0b0a0908}
	if got := sipHash(key, 0x0706050403020100); got != 0x93f5f5799a932462 {
		t.Errorf("%#x", got)
	}
}

// TestBounds: what is long is cut, what is left out is counted, and nothing is longer than a part may be.
func TestBounds(t *testing.T) {
	long := make([]string, 1000)
	for i := range long {
		long[i] = "x"
	}
	p := NewPart(map[string]any{"a": map[string]any{"list": long}, "text": strings.Repeat("é", 5000)},
		errors.New("not\nall"))
	text, err := json.Marshal(p)
	if err != nil || p.Omitted["a.list"] != 1000-maxItems || len(text) > maxText*2+maxItems*8 || p.Error != `not\nall` ||
		!json.Valid(text) {
		t.Errorf("%v: %v, %d bytes, %q", err, p.Omitted, len(text), p.Error)
	}
	deep := make([][]string, 500)
	for i := range deep {
		deep[i] = long
	}
	wide := map[string]any{}
	for i := range 4 {
		wide[strings.Repeat("k", i+1)] = deep
	}
	p = NewPart(wide, nil)
	if text, err = json.Marshal(p); err != nil || len(text) > maxPart+64<<10 || p.Omitted["k"] != 500-fewItems {
		t.Errorf("%v: %d bytes, %d omitted", err, len(text), p.Omitted["k"])
	}
	for name, value := range map[string]any{"null": nil, "no JSON": func() {}} {
		if p := NewPart(value, nil); value != nil && p.Error == "" {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// FuzzText: any text is hidden without a panic, and what comes out hides nothing more.
func FuzzText(f *testing.F) {
	for _, s := range []string{"8.8.8.8/24", "comment \"", "a: [::1]:80", "--comment", "/", "-", "-j -", "token=",
		"1:2:3:4:5:6"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m := testMasker()
		if once := m.text(s); s != "" && once == "" {
			t.Errorf("%q is lost", s)
		}
	})
}

//go:build linux

package security

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// elsewhere are the claims of which tests of other packages are the proof, as DIRECTORY.TEST.
var elsewhere = map[string][]string{
	"tcp":           {"testing/conformance.TestKernel", "testing/conformance.TestRandom"},
	"forgotten":     {"testing/conformance.TestMistakesKernel", "testing/traffic.TestFlushedConnections"},
	"replacing":     {"testing/traffic.TestReplaceUnderLoad", "testing/traffic.TestTProxyReplaceUnderLoad"},
	"no-proxy":      {"testing/traffic.TestNobodyListens", "testing/traffic.TestTProxyNobodyListens"},
	"lookups":       {"testing/conformance.TestKernel", "testing/conformance.TestErrorAboutLateAnswer"},
	"mark":          {"testing/traffic.TestMarkCannotBeTaken"},
	"locks":         {"testing/security.TestLocks", "internal/nslock.TestUnprivileged", "iptables.TestXtablesLock"},
	"no-log":        {"internal/nslock.TestTake"},
	"foreign-names": {"nft.TestForeignTable", "iptables.TestForeignChain"},

	"early-listeners": {"testing/security.TestEarlyListeners"},

	"annotations": {"podspec.TestDefaultLimits", "podspec.TestLimits", "cmd/mesh-cni.TestAdd"},
	"agent-socket": {"internal/cniwire.TestStrangers", "internal/cniwire.TestStrangeAgent", "internal/cniwire.TestMode",
		"internal/cniwire.TestFlood", "internal/cniwire.TestStall", "internal/cniwire.TestTooMuch"},
	"agent-web": {"kube/internal/web.TestWebFlood", "kube/internal/web.TestCrowd"},
	"agent-questions": {"kube/cmd/mesh-cni-agent.TestAnswers", "kube/cmd/mesh-cni-agent.TestFollow",
		"kube/internal/web.TestWebFlood", "kube/internal/web.TestCrowd"},
	"files": {"internal/infile.TestRead", "internal/infile.TestPipe", "cmd/mesh-init.TestFIFO",
		"cmd/mesh-cni.TestLogIsFIFO", "cmd/mesh-cni.TestLongInput", "iptables.TestLockIsFIFO",
		"kube/cmd/mesh-cni-agent.TestFIFO",
		"kube/internal/agent/kube.TestCredentialsAreFIFOs", "kube/internal/agent/sandbox.TestResolvConf",
		"kube/internal/conflist.TestFIFOs", "kube/internal/conflist.TestLockHeld"},
	"log-lines": {"internal/strict.TestOneLine", "internal/strict.TestEscapedJSON", "cmd/mesh-cni.TestControlCharacters",
		"kube/internal/web.TestWebSays", "kube/internal/agent/kube.TestNote"},
	"replaced-namespace": {"cmd/mesh-cni.TestNamespaceReplaced", "cmd/mesh-cni.TestNamespacePaths"},
	"kernel-lists":       {"nft.TestForeignUserData", "internal/nlsock.TestTooMuch"},
	"pod-author":         {"podspec.TestNotOurs", "podspec.TestLint", "kube/internal/agent.TestWarn"},

	"forged-subflow": {"testing/traffic.TestForgedSubflow"},
	"subflows":       {"testing/traffic.TestSubflowsOfCaptured", "testing/traffic.TestSubflowToCaptured"},
	"raw-icmp":       {"testing/conformance.TestOtherProtocols"},

	"peer-misled":   {"testing/conformance.TestMistakesKernel", "testing/conformance.TestRandomMistakes"},
	"peer-let-in":   {"testing/conformance.TestKernel"},
	"peer-loopback": {"testing/conformance.TestFramesOfNeighbours"},
}

const page = "../../SECURITY.md"

// claim is a row of the page.
type claim struct {
	name  string
	lines []string // of the policy
}

// claims reads the rows of the page's tables.
func claims(t *testing.T) (all []claim) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`\b[OIBZ][0-9]+\b`)
	decided := regexp.MustCompile(`^ (no line|\[design\]\(docs/design\.md#[a-z-]+\)|[OIB][0-9]+(, [OIB][0-9]+)*) $`)
	for row := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
		if !strings.HasPrefix(row, "|") || strings.HasPrefix(row, "| ---") || strings.HasPrefix(row, "| name |") {
			continue
		}
		name := strings.TrimSpace(cells[0])
		if !regexp.MustCompile("^`[a-z-]+`$").MatchString(name) {
			t.Errorf("a row without a name: %s", row)
			continue
		}
		if last := cells[len(cells)-1]; !decided.MatchString(last) {
			t.Errorf("%s: decided by%q", name, last)
		}
		all = append(all, claim{strings.Trim(name, "`"), line.FindAllString(cells[len(cells)-1], -1)})
	}
	return all
}

// TestClaims: each row of the page has a test, each test here has a row, and the policy has the lines that decide.
func TestClaims(t *testing.T) {
	tested := maps.Clone(elsewhere)
	for _, s := range scenes() {
		for _, a := range s.attempts {
			tested[a.claim] = append(tested[a.claim], "")
		}
	}
	for _, e := range exhaustions {
		tested[e.claim] = append(tested[e.claim], "")
	}
	for _, a := range arrivals {
		tested[a.claim] = append(tested[a.claim], "")
	}
	policy, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	for _, c := range claims(t) {
		if said[c.name] {
			t.Errorf("%s stands there twice", c.name)
		}
		said[c.name] = true
		if len(tested[c.name]) == 0 {
			t.Errorf("SECURITY.md claims %s, and nothing tests it", c.name)
		}
		for _, line := range c.lines {
			if !strings.Contains(string(policy), "\n| "+line+" | ") {
				t.Errorf("%s: docs/policy.md has no line %s", c.name, line)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tested)) {
		if !said[name] {
			t.Errorf("%s is tested, and SECURITY.md does not say what comes of it", name)
		}
	}
}

// TestElsewhere: the tests of other packages are there.
func TestElsewhere(t *testing.T) {
	for name, tests := range elsewhere {
		for _, test := range tests {
			dir, function, _ := strings.Cut(test, ".")
			if !slices.Contains(functions(t, filepath.Join("../..", dir)), function) {
				t.Errorf("%s: no %s in %s", name, function, dir)
			}
		}
	}
}

// functions are those of a directory's tests.
func functions(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if f, is := d.(*ast.FuncDecl); is {
				names = append(names, f.Name.Name)
			}
		}
	}
	return names
}

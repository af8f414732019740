package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRead: what tests have said is taken for what it is, and never for success if there is doubt.
func TestRead(t *testing.T) {
	all := []string{"TestA", "TestAB"}
	for _, test := range []struct {
		name, said string
		want       result
	}{
		{"all pass", "=== RUN   TestA\n--- PASS: TestA (0.00s)\n--- PASS: TestAB (0.00s)\nPASS\n\nexit code 0\n",
			result{}},
		{"the innermost that fails is named", "--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/x (0.00s)\n" +
			"        --- FAIL: TestA/x/1 (0.00s)\n--- FAIL: TestAB (0.00s)\nFAIL\nexit code 1\n",
			result{Failed: []string{"TestA/x/1", "TestAB"}}},
		{"cut off", "--- PASS: TestA (0.00s)\n=== RUN   TestAB\n    --- PASS: TestAB/x (0.00s)\n",
			result{missing: []string{"TestAB"}, NotRun: 1}},
		{"nothing said", "", result{missing: all, NotRun: 2}},
		{"success, and a code that says otherwise",
			"--- PASS: TestA (0.00s)\n--- PASS: TestAB (0.00s)\nPASS\na leak\nexit code 2\n", result{missing: all, NotRun: 2}},
		{"a failure, and a code that says otherwise", "--- FAIL: TestA (0.00s)\nFAIL\nexit code 0\n", result{missing: all, NotRun: 2}},
		{"a panic", "--- FAIL: TestA (0.00s)\npanic: no\n\ngoroutine 1:\nmain.go:1 +0x1\nexit code 2\n",
			result{Failed: []string{"TestA"}, missing: []string{"TestAB"}, NotRun: 1}},
		{"two runs", "--- PASS: TestA (0.00s)\nexit code 2\n--- PASS: TestAB (0.00s)\nPASS\nexit code 0\n", result{}},
		{"cut off, and again", "--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/x (0.00s)\n=== RUN   TestAB\n" +
			"--- PASS: TestA (0.00s)\n    --- PASS: TestA/x (0.00s)\n--- PASS: TestAB (0.00s)\nPASS\nexit code 0\n", result{}},
		{"again, and now it passes", "--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/x (0.00s)\n" +
			"--- PASS: TestAB (0.00s)\nFAIL\nexit code 1\n--- PASS: TestA (0.00s)\n    --- PASS: TestA/x (0.00s)\nPASS\n" +
			"exit code 0\n", result{}},
		{"again, and now it fails", "--- PASS: TestA (0.00s)\n--- PASS: TestAB (0.00s)\nPASS\nexit code 0\n" +
			"--- FAIL: TestA (0.00s)\nFAIL\nexit code 1\n", result{Failed: []string{"TestA"}}},
	} {
		test.want.Tests = len(all)
		if diff := cmp.Diff(test.want, read(all, test.said), cmp.AllowUnexported(result{})); diff != "" {
			t.Errorf("%s:\n%s", test.name, diff)
		}
	}
}

func TestVersions(t *testing.T) {
	var m machine
	m.read("\n5.10.0-32-amd64\nnftables v0.9.8 (E.D.S.)\niptables v1.8.7 (nf_tables)\n")
	if m.Linux != "5.10" || m.NFT != "0.9.8" || m.IPTables != "1.8.7" {
		t.Errorf("%+v", m)
	}
	if m.read("Kernel panic - not syncing"); m.Linux != "" {
		t.Errorf("a machine that did not boot has Linux %s", m.Linux)
	}
}

// TestUnexplained: a failure without a cause is one.
func TestUnexplained(t *testing.T) {
	all := []cause{{regexp.MustCompile("^bullseye"), regexp.MustCompile(`^nft\.TestA$`), "it is so"}}
	results := kept{Results: map[string]result{"nft": {Failed: []string{"TestA"}}}}
	machines := []machine{{"bullseye", false, results}, {"bookworm", false, results}, {"bullseye", true, results}}
	if diff := cmp.Diff([]string{"bookworm: nft.TestA"}, unexplained(machines, all)); diff != "" {
		t.Error(diff)
	}
}

// TestUpdate: only what stands between the lines is replaced.
func TestUpdate(t *testing.T) {
	name := filepath.Join(t.TempDir(), "compatibility.md")
	if err := os.WriteFile(name, []byte("before\n"+begin+"old\n"+end+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	can := func(all ...string) (can []capability) {
		for _, c := range all {
			backend, name, _ := strings.Cut(c, " ")
			can = append(can, capability{backend, name, true})
		}
		return can
	}
	machines := []machine{
		{"bullseye", false, kept{"5.10", "0.9.8", "1.8.7",
			append(can("nft tables", "nft NAT"), capability{"iptables-nft", "tables", false}),
			map[string]result{"nft": {Tests: 2}, "iptables": {Tests: 2, NotRun: 2}}}},
		{"bookworm", true, kept{"6.1", "1.0.6", "1.8.9", can("nft tables"),
			map[string]result{"nft": {Tests: 2, Failed: []string{"TestA/x", "TestA/y"}},
				"iptables": {Tests: 3, Failed: []string{"TestB"}, NotRun: 1}}}},
		{release: "trixie"},
	}
	all := []cause{{regexp.MustCompile("."), regexp.MustCompile("."), "it is so"}}
	if err := update(name, tables(machines, all)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var rest []string
	for _, pkg := range packages()[2:] {
		rest = append(rest, "| tests of "+pkg+" | not run | not run | not run |\n")
	}
	want := "before\n" + begin + `
| Linux | 5.10 | 6.1 | not run |
| --- | --- | --- | --- |
| programs of Debian | bullseye | bookworm | trixie |
| nft | 0.9.8 | 1.0.6 |  |
| iptables | 1.8.7 | 1.8.9 |  |
| tests of nft | all 2 | 1 of 2 (1) | not run |
| tests of iptables | not run | 1 of 3 (1), 1 not run | not run |
` + strings.Join(rest, "") + `
1. TestA, TestB: it is so.

| what rules need | nft | iptables-nft |
| --- | --- | --- |
| tables | yes | no |
| NAT | not on 6.1 (bookworm) | no |

` + end + "after\n"
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
	if err := update(os.DevNull, ""); err == nil || !strings.Contains(err.Error(), os.DevNull) {
		t.Errorf("a document without the lines: %v", err)
	}
}

// TestDocument: the document has what is remembered, all of what fails has a cause, and what was remembered is what is.
func TestDocument(t *testing.T) {
	machines, err := remembered("record.json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../" + document)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), begin+"\n"+tables(machines, causes())+"\n"+end) {
		t.Errorf("%s does not have what testing/kernels/record.json knows: make kernels KERNELS=-write", document)
	}
	if red := unexplained(machines, causes()); len(red) > 0 {
		t.Errorf("these fail, and nothing says why that is right:\n%s", strings.Join(red, "\n"))
	}
	again := filepath.Join(t.TempDir(), "record.json")
	if err := remember(again, machines); err != nil {
		t.Fatal(err)
	}
	if read, err := remembered(again); err != nil || cmp.Diff(machines, read, cmp.AllowUnexported(machine{}, result{})) != "" {
		t.Errorf("what was remembered reads otherwise: %v", err)
	}
}

// TestJudge: an answer is right if it ends with the code and has all the words; one that is not there is wrong.
func TestJudge(t *testing.T) {
	l := lack{steps: []step{{"apply", 12, []string{"load xt_owner"}}, {"apply", 0, []string{"created"}}}}
	for said, want := range map[string]int{
		"load xt_owner\ncode 12\n" + next + "\ncreated\n\ncode 0\n" + next + "\n": 0,
		"load xt_mark\ncode 12\n" + next + "\ncreated\n\ncode 0\n" + next + "\n":  1,
		"load xt_owner\ncode 12\n" + next + "\ncreated\n\ncode 1\n" + next + "\n": 1,
		"load xt_owner\ncode 12\n" + next + "\ncreated\n\ncode 0\n":               1,
		"Kernel panic": 2,
	} {
		if got := l.judge(said); len(got) != want {
			t.Errorf("%q: %d wrong, want %d: %q", said, len(got), want, got)
		}
	}
}

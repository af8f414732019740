package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mesh-intercept/intercept/dataplane"
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
			result{failed: []string{"TestA/x/1", "TestAB"}}},
		{"cut off", "--- PASS: TestA (0.00s)\n=== RUN   TestAB\n    --- PASS: TestAB/x (0.00s)\n",
			result{missing: []string{"TestAB"}}},
		{"nothing said", "", result{missing: all}},
		{"success, and a code that says otherwise",
			"--- PASS: TestA (0.00s)\n--- PASS: TestAB (0.00s)\nPASS\na leak\nexit code 2\n", result{missing: all}},
		{"a failure, and a code that says otherwise", "--- FAIL: TestA (0.00s)\nFAIL\nexit code 0\n", result{missing: all}},
		{"a panic", "--- FAIL: TestA (0.00s)\npanic: no\n\ngoroutine 1:\nmain.go:1 +0x1\nexit code 2\n",
			result{failed: []string{"TestA"}, missing: []string{"TestAB"}}},
		{"two runs", "--- PASS: TestA (0.00s)\nexit code 2\n--- PASS: TestAB (0.00s)\nPASS\nexit code 0\n", result{}},
		{"cut off, and again", "--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/x (0.00s)\n=== RUN   TestAB\n" +
			"--- PASS: TestA (0.00s)\n    --- PASS: TestA/x (0.00s)\n--- PASS: TestAB (0.00s)\nPASS\nexit code 0\n", result{}},
		{"again, and now it passes", "--- FAIL: TestA (0.00s)\n    --- FAIL: TestA/x (0.00s)\n" +
			"--- PASS: TestAB (0.00s)\nFAIL\nexit code 1\n--- PASS: TestA (0.00s)\n    --- PASS: TestA/x (0.00s)\nPASS\n" +
			"exit code 0\n", result{}},
		{"again, and now it fails", "--- PASS: TestA (0.00s)\n--- PASS: TestAB (0.00s)\nPASS\nexit code 0\n" +
			"--- FAIL: TestA (0.00s)\nFAIL\nexit code 1\n", result{failed: []string{"TestA"}}},
	} {
		test.want.pkg, test.want.tests = "nft", len(all)
		if diff := cmp.Diff(test.want, read("nft", all, test.said), cmp.AllowUnexported(result{})); diff != "" {
			t.Errorf("%s:\n%s", test.name, diff)
		}
	}
}

func TestVersions(t *testing.T) {
	var m machine
	m.read("\n5.10.0-32-amd64\nnftables v0.9.8 (E.D.S.)\niptables v1.8.7 (nf_tables)\n")
	if m.seen.Linux != "5.10" || m.seen.NFT != "0.9.8" || m.seen.IPTables != "1.8.7" {
		t.Errorf("%+v", m)
	}
	if m.read("Kernel panic - not syncing"); m.seen.Linux != "" {
		t.Errorf("a machine that did not boot has Linux %s", m.seen.Linux)
	}
}

// TestUnexplained: a failure without a cause is one, and so is what did not come to an end.
func TestUnexplained(t *testing.T) {
	all := []cause{{regexp.MustCompile("^bullseye"), regexp.MustCompile(`^nft\.TestA$`), "it is so"}}
	machines := []machine{
		{release: "bullseye", results: []result{{pkg: "nft", failed: []string{"TestA"}}}},
		{release: "bookworm", results: []result{{pkg: "nft", failed: []string{"TestA"}}}},
		{release: "bullseye", here: true,
			results: []result{{pkg: "nft", failed: []string{"TestA"}, missing: []string{"TestB"}}}},
	}
	want := []string{"bookworm: nft.TestA", "bullseye-here: nft.TestB did not come to an end"}
	if diff := cmp.Diff(want, append(unexplained(machines, all), unfinished(machines)...)); diff != "" {
		t.Error(diff)
	}
}

// TestUpdate: only what stands between the lines is replaced.
func TestUpdate(t *testing.T) {
	name := filepath.Join(t.TempDir(), "compatibility.md")
	if err := os.WriteFile(name, []byte("before\n"+begin+"old\n"+end+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	report := func(states ...dataplane.State) dataplane.Report {
		var r dataplane.Report
		for _, backend := range []dataplane.Backend{dataplane.BackendNFT, dataplane.BackendIPTablesNFT} {
			d := dataplane.Diagnosis{Finding: dataplane.Finding{Backend: backend}}
			for i, s := range states {
				d.Capabilities = append(d.Capabilities, dataplane.Capability{Name: []string{"tables", "NAT"}[i], State: s})
			}
			r.Backends, states = append(r.Backends, d), []dataplane.State{dataplane.StateMissing}
		}
		return r
	}
	machines := []machine{
		{"bullseye", false, seen{"5.10", "0.9.8", "1.8.7", report(dataplane.StateOK, dataplane.StateOK)},
			[]result{{pkg: "nft", tests: 2}, {pkg: "iptables", tests: 2, missing: []string{"TestC", "TestD"}}}},
		{"bookworm", true, seen{"6.1", "1.0.6", "1.8.9", report(dataplane.StateOK)},
			[]result{{pkg: "nft", tests: 2, failed: []string{"TestA/x", "TestA/y"}},
				{pkg: "iptables", tests: 2, missing: []string{"TestC"}}}},
	}
	all := []cause{{regexp.MustCompile("."), regexp.MustCompile("."), "it is so"}}
	if err := update(name, tables(machines, all)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	want := "before\n" + begin + `
| Linux | 5.10 | 6.1 |
| --- | --- | --- |
| programs of Debian | bullseye | bookworm |
| nft | 0.9.8 | 1.0.6 |
| iptables | 1.8.7 | 1.8.9 |
| tests of nft | all 2 | 1 of 2 (1) |
| tests of iptables | not run | 1 of 2, 1 not run |

1. TestA: it is so.

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

package dataplane

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestModulesInDocument keeps the table of modules in docs/compatibility.md that of the doctor. MESH_TEST_UPDATE=1
// writes it.
func TestModulesInDocument(t *testing.T) {
	const name, begin, end = "../docs/compatibility.md", "<!-- modules: a test keeps this the same as the code -->\n",
		"<!-- /modules -->\n"
	var table strings.Builder
	table.WriteString("\n| what rules need | backend nft | backends of iptables |\n| --- | --- | --- |\n")
	for _, n := range needs() {
		fmt.Fprintf(&table, "| %s | %s | %s |\n", n.name, names(n.nft), names(n.iptables))
	}
	table.WriteString("\n")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), begin)
	old, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		t.Fatalf("%s has no lines %q and %q", name, begin, end)
	}
	if os.Getenv("MESH_TEST_UPDATE") == "1" {
		err := os.WriteFile(name, []byte(before+begin+table.String()+end+after), 0o600) // which is there
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(table.String(), old); diff != "" {
		t.Errorf("%s (MESH_TEST_UPDATE=1 go test ./dataplane -run ModulesInDocument writes it):\n%s", name, diff)
	}
}

// names puts modules into a cell of the table, each once.
func names(modules []string) string {
	modules = slices.Compact(slices.Clone(modules))
	return "`" + strings.Join(modules, "`, `") + "`"
}

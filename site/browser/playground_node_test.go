//go:build browser

package browser_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/mesh-intercept/intercept/site/answer"
)

// TestPlaygroundNode: a support document that is dropped on the page, or chosen, shows that pod, and packets are asked
// against what was in force there.
func TestPlaygroundNode(t *testing.T) {
	// A pod with PostgreSQL's port excluded, counters, and a chain of somebody else's.
	content, err := os.ReadFile(filepath.Join("..", "answer", "testdata", "support.json"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	support := native[answer.Support](t, object{"op": "support", "text": text})
	if support.Counters["O12"].Packets == 0 || len(support.Foreign) == 0 {
		t.Fatalf("the document has counted nothing, or knows no chains of others: %+v", support)
	}
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "support.json")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"dropped", "chosen"} {
		t.Run(how, func(t *testing.T) {
			tb := play(t, screen{})
			tb.ready()
			tb.click("#tab-node")
			tb.until(`document.getElementById("file")`)
			if how == "dropped" {
				tb.do(fmt.Sprintf(`((transfer) => {
					transfer.items.add(new File([%s], "support.json"));
					const event = { bubbles: true, cancelable: true, dataTransfer: transfer };
					for (const type of ["dragenter", "dragover", "drop"]) document.body.dispatchEvent(new DragEvent(type, event));
				})(new DataTransfer())`, quoted))
			} else {
				tb.choosesFile("#file", file)
			}
			tb.until(`document.querySelector(".node")`)
			tb.click(`#scenarios [value="service"]`)
			tb.enter("#packet-port", "5432")
			packet := object{"from": "app", "dst": "10.96.0.20:5432"}
			v := explain(t, support.Source, packet)
			if v.Fate != "pass" {
				t.Fatalf("what was in force is not asked: %v", v)
			}
			tb.answered(v.Fate, v.ID)
			tb.enter("#packet-port", "443")
			tb.answered("redirect(15001)", "O12")
			counted := support.Counters["O12"].Packets
			want(tb, `document.querySelector("li.decided .counted").textContent.trim()`, fmt.Sprintf("%d counted", counted))
			want(tb, `[...document.querySelectorAll(".map .foreign .name")].map((e) => e.textContent).join()`,
				support.Foreign[0].Chain)
			for _, words := range []string{support.Summary, support.Foreign[0].Table, "10.244.0.5"} {
				want(tb, fmt.Sprintf(`document.querySelector("#panel-node .node").textContent.includes(%q)`, words), true)
			}
			want(tb, `/never asked of what ours capture/.test(document.querySelector("#panel-node .node").textContent)`, true)
			// What is changed is no longer what was in force; what is changed back is.
			says := func(words string) {
				tb.until(fmt.Sprintf(`document.getElementById("verdict-card").innerText.includes(%q) &&
					document.querySelector("#panel-node [role=status]").textContent.includes(%[1]q)`, words))
			}
			says("in force there.")
			tb.enter("#field-outbound\\.excludePorts", "443")
			tb.answered("pass", "O5.ports")
			says("in force there, with your changes.")
			tb.enter("#field-outbound\\.excludePorts", "5432")
			tb.answered("redirect(15001)", "O12")
			says("in force there.")
			tb.accessible()
			for _, width := range []int64{360, 1000, 2560} {
				tb.fits(width)
			}
			tb.click(`#panel-node [data-key="close"]`)
			tb.until(`!document.querySelector(".node") && !document.querySelector(".map .foreign")`)
		})
	}
	t.Run("no document", func(t *testing.T) {
		tb := play(t, screen{})
		tb.ready()
		tb.click("#tab-node")
		tb.until(`document.getElementById("file")`)
		other := filepath.Join(t.TempDir(), "other.json")
		if err := os.WriteFile(other, []byte(`{"a": 1}`), 0o644); err != nil {
			t.Fatal(err)
		}
		tb.choosesFile("#file", other)
		said := native[answer.Failure](t, object{"op": "support", "text": `{"a": 1}`}).Error.Text
		tb.until(fmt.Sprintf(`document.querySelector("#panel-node [role=alert]")?.textContent.includes(%q)`, said))
		tb.answered("pass", "I6")
	})
}

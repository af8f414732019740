//go:build browser

package browser_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/site/answer"
)

// endsAt is true, in the page, if the packet of the picture is at the edge of a box, or in it.
const endsAt = `((name) => {
	const box = document.querySelector(".map .box." + name + " rect").getBBox();
	const { cx, cy } = document.querySelector(".map circle.packet");
	const [x, y] = [cx.baseVal.value, cy.baseVal.value];
	return x > box.x - 2 && x < box.x + box.width + 2 && y > box.y - 2 && y < box.y + box.height + 2;
})`

// TestPlaygroundEnds: the picture leads where the answer says that the packet gets to.
func TestPlaygroundEnds(t *testing.T) {
	for _, s := range []screen{{width: 1280, height: 900}, {width: 360, height: 800}} {
		tb := play(t, s)
		tb.ready()
		tb.do(`Object.defineProperty(document, "hidden", { value: true })`) // no animation
		for _, test := range []struct {
			packet string
			proxy  bool
			says   string
		}{
			{"tunnel", true, "to port 15008, where the proxy itself listens"},
			{"ingress", true, "15006"},
			{"localhost", false, "127.0.0.1"},
			{"probe", true, "to port 15021, where the proxy itself listens"},
		} {
			tb.click(fmt.Sprintf(`#scenarios [value=%q]`, test.packet))
			tb.until(fmt.Sprintf(`document.getElementById("verdict-card").innerText.includes(%q)`, test.says))
			tb.until(fmt.Sprintf(`%s("proxy") === %t`, endsAt, test.proxy))
			want(tb, `document.querySelector(".map .box.proxy").classList.contains("lit")`, test.proxy)
		}
		want(tb, `document.querySelector(".map .box.proxy").textContent.includes("15021")`, true)
		want(tb, `document.querySelector("#verdict-card .about a").pathname.endsWith("docs/probes.html")`, true)
		// The kernel discards what comes from outside for the loopback interface: no rule has.
		tb.choose("#cases", "neighbour")
		tb.answered("pass", "I9.loopback")
		tb.until(`/kernel discards/.test(document.getElementById("verdict").textContent)`)
		tb.until(`document.querySelector(".map .cross") && !document.querySelector(".map .box.proxy.lit")`)
		want(tb, `[...document.querySelectorAll(".map .gate.lit .name")].map((e) => e.textContent).join()`, "prerouting")
		// The proxy's name and its ports are to be read.
		want(tb, `[...document.querySelectorAll(".map .box.proxy text, .map .gate .name")].map((e) => e.textContent)
			.find((text) => text.includes("…")) ?? ""`, "")
	}
}

// TestPlaygroundLines: each line of all traffic, and of a comparison, asks about a packet that has its fate.
func TestPlaygroundLines(t *testing.T) {
	tb := play(t, screen{})
	tb.ready()
	tb.choose("#preset", "strict")
	tb.until(`location.hash.includes("udp=reject")`)
	type line struct{ Fate, Rule string }
	for view, lines := range map[string]string{
		"matrix": `[...document.querySelectorAll("#panel-matrix button.part")].map((e) => ({
			fate: e.querySelector(".fate").textContent, rule: e.querySelector(".by").textContent }))`,
		"diff": `[...document.querySelectorAll("#changes .change:has(.does button)")].map((e) => ({
			fate: e.querySelectorAll(".fate")[1].textContent, rule: "" }))`,
	} {
		tb.click("#tab-" + view)
		tb.until(lines + ".length > 2")
		all := eval[[]line](tb, lines)
		of := map[string]string{"matrix": "#panel-matrix button.part", "diff": "#changes .change .does button"}[view]
		asked := 0
		for i, l := range all {
			if i%5 != 0 { // all of them are asked in the tests of package answer
				continue
			}
			asked++
			tb.do(fmt.Sprintf(`document.getElementById("answer").dataset.fate = "";
				document.querySelectorAll(%q)[%d].click()`, of, i))
			tb.until(fmt.Sprintf(`((a, line) => a.fate === %q && (!%q || line(a.rule) === line(%[2]q)))
				(document.getElementById("answer").dataset, (id) => id.split("/").pop().split(".")[0])`, l.Fate, l.Rule))
		}
		if asked == 0 {
			t.Errorf("%s has no line to ask about", view)
		}
	}
}

// TestPlaygroundNFT: the rules are there as nft text, the one that decides is marked, and the text is mesh-init's.
func TestPlaygroundNFT(t *testing.T) {
	tb := play(t, screen{})
	tb.ready()
	tb.click("#tab-rules")
	tb.until(`document.querySelector("#panel-rules .l.lit")`)
	want(tb, `document.querySelector("#panel-rules input:checked").value`, "nft")
	want(tb, `/comment "I6: /.test(document.querySelector("#panel-rules .l.lit").textContent)`, true)
	var lines []string
	for _, l := range native[answer.Rules](t, object{"op": "rules"}).NFT.Lines {
		lines = append(lines, strings.TrimSpace(l.Text))
	}
	want(tb, `[...document.querySelectorAll("#panel-rules .l")].map((e) => e.textContent.replace("This rule decides: ", "").trim())
		.join("\n")`, strings.Join(lines, "\n"))
}

// TestPlaygroundAnnotations: those of another mesh are read as such, and what is none of any is refused.
func TestPlaygroundAnnotations(t *testing.T) {
	tb := play(t, screen{})
	tb.ready()
	tb.click("#tab-annotations")
	tb.enter("#text-annotations", "traffic.sidecar.istio.io/excludeInboundPorts: \"8080\"\n")
	tb.until(`document.getElementById("notes-annotations").innerText.includes("annotations of Istio")`)
	tb.click(`#scenarios [value="ingress"]`)
	tb.answered("pass", "I6")
	for _, none := range []string{"capture all of it, please", "app.kubernetes.io/name: x"} {
		tb.enter("#text-annotations", none)
		said := native[answer.Failure](t, object{"op": "read", "source": object{"form": "annotations", "text": none}}).Error.Text
		tb.until(fmt.Sprintf(`document.getElementById("problems-annotations").innerText.includes(%q)`, said))
	}
}

// copied has the page put what it copies into a variable, and leads to it.
func (tb *tab) copied() string {
	tb.t.Helper()
	tb.do(`globalThis.copied = ""; navigator.clipboard.writeText = async (text) => { globalThis.copied = text; }`)
	tb.click("#share")
	tb.until(`globalThis.copied !== ""`)
	return eval[string](tb, `new URL(globalThis.copied).hash`)
}

// TestPlaygroundSteps: Back leads to the case before, what is typed is not a case of its own, and notices go with
// what they are about.
func TestPlaygroundSteps(t *testing.T) {
	tb := play(t, screen{})
	tb.ready()
	tb.click(`#scenarios [value="service"]`)
	tb.answered("redirect(15001)", "O12")
	tb.until(`location.hash !== ""`)
	tb.enter("#packet-port", "8443")
	tb.until(`location.hash.includes("8443")`)
	tb.choose("#preset", "gateway")
	tb.until(`location.hash.includes("inbound")`)
	tb.click(`#scenarios [value="ingress"]`)
	tb.answered("pass", "")
	tb.until(`location.hash.includes("10.244.0.5")`)
	tb.do(`history.back()`)
	tb.until(`document.getElementById("packet-port").value === "8443"`)
	tb.do(`history.back()`)
	tb.until(`document.getElementById("preset").value === "defaults"`)
	want(tb, `document.getElementById("packet-port").value`, "8443")
	tb.do(`history.back()`)
	tb.answered("pass", "I6")
	want(tb, `location.hash`, "")
	tb.do(`history.forward()`)
	tb.answered("redirect(15001)", "O12")
	// A notice about an address goes when somebody asks something else.
	tb.do(`location.hash = "1&dnss=all"`)
	tb.until(`document.getElementById("news").innerText.includes("names no case")`)
	tb.click(`#scenarios [value="quic"]`)
	tb.answered("pass", "O14")
	tb.until(`document.getElementById("news").hidden`)
	// A case of the list is known again, however its configuration is written.
	tb.choose("#cases", "excluded-cidr")
	tb.answered("pass", "O10.cidrs")
	tb.until(`document.getElementById("cases").value === "excluded-cidr"`)
}

// TestPlaygroundOneLink: a link has what is compared with, and one case has one link.
func TestPlaygroundOneLink(t *testing.T) {
	tb := play(t, screen{})
	tb.ready()
	tb.choose("#preset", "dns")
	tb.click(`#scenarios [value="service"]`)
	tb.answered("redirect(15001)", "O12")
	first := tb.copied()
	again := open(t, playground+first, screen{})
	again.answered("redirect(15001)", "O12")
	again.ready()
	if second := again.copied(); second != first || strings.Contains(first, "packet.from") {
		t.Errorf("%s, and then %s", first, second)
	}
	for _, before := range []string{"users", "own"} {
		tb.click("#tab-diff")
		tb.until(`document.getElementById("before")`)
		tb.choose("#before", before)
		if before == "own" {
			tb.do(`document.getElementById("before-text").value = "outbound: {udp: reject}";
				document.getElementById("before-text").dispatchEvent(new Event("input", { bubbles: true }))`)
		}
		setting := map[string]string{"users": "outbound.includeUIDs", "own": "outbound.udp"}[before]
		differs := fmt.Sprintf(`document.querySelector("#changes")?.innerText.includes(%q)`, setting)
		tb.until(differs)
		other := open(t, playground+tb.copied(), screen{})
		other.ready()
		other.do(`document.getElementById("views").scrollIntoView()`)
		other.until(differs)
		want(other, `document.getElementById("tab-diff").getAttribute("aria-selected")`, "true")
		want(other, `document.getElementById("before").value`, map[string]string{"users": "users", "own": "kept"}[before])
	}
}

// TestPlaygroundPacket: the answer says all that was said of the packet, and a problem stands where it is.
func TestPlaygroundPacket(t *testing.T) {
	tb := play(t, screen{})
	tb.ready()
	tb.click(`#scenarios [value="user"]`)
	tb.enter("#packet-mark", "0x10")
	tb.choose("#packet-state", "invalid")
	tb.until(`/, user 2000, group 2000, mark 0x10, invalid, says conntrack/.test(document.querySelector(".asked").innerText)`)
	tb.choose("#packet-state", "new")
	for control, text := range map[string]string{"to": "10.1.2", "port": "70000", "src": "10.1", "mark": "x", "uid": "a"} {
		was := eval[string](tb, fmt.Sprintf(`document.getElementById("packet-%s").value`, control))
		tb.enter("#packet-"+control, text)
		tb.until(fmt.Sprintf(`document.getElementById("packet-problem-%s").innerText !== ""`, control))
		want(tb, `[...document.querySelectorAll("#editor [aria-invalid=true]")].map((e) => e.id).join()`, "packet-"+control)
		tb.do(fmt.Sprintf(`((e) => {
			e.value = %q;
			e.dispatchEvent(new Event("input", { bubbles: true }));
		})(document.getElementById("packet-%s"))`, was, control))
		tb.until(`!document.querySelector("#editor [aria-invalid=true]")`)
	}
}

// TestPlaygroundNodeDoubts: where a document says that others take packets, the answer says so; where nothing is in
// force, too; and a link is of what is shown, not of what was shown before.
func TestPlaygroundNodeDoubts(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "answer", "testdata", "support.json"))
	if err != nil {
		t.Fatal(err)
	}
	// written has a document changed, and puts it into a file.
	written := func(change func(parts map[string]any)) string {
		var doc map[string]any
		if err := json.Unmarshal(content, &doc); err != nil {
			t.Fatal(err)
		}
		change(doc["parts"].(map[string]any))
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "support.json")
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	tb := play(t, screen{})
	tb.ready()
	tb.click(`#scenarios [value="service"]`)
	tb.answered("redirect(15001)", "O12")
	tb.until(`location.hash !== ""`)
	before := eval[string](tb, `location.hash`)
	tb.click("#tab-node")
	tb.until(`document.getElementById("file")`)
	tb.choosesFile("#file", written(func(parts map[string]any) {
		status := parts["status"].(map[string]any)["value"].(map[string]any)
		chain := status["foreign"].(map[string]any)["chains"].([]any)[0].(map[string]any)
		chain["effect"], chain["asked"] = "takes", "before"
	}))
	tb.until(`document.querySelector("#verdict-card .doubts")?.innerText.includes("ip nat OUTPUT")`)
	want(tb, `document.getElementById("verdict").textContent.startsWith("Captured, by these rules alone: ")`, true)
	want(tb, `location.hash`, "")
	link := tb.copied()
	if link == before || !strings.Contains(link, "outbound-exclude-ports=5432") {
		t.Errorf("the link is %s, as before: %s", link, before)
	}
	tb.accessible()
	// What arrives does not meet that chain.
	tb.click(`#scenarios [value="ingress"]`)
	tb.answered("redirect(15006)", "I7")
	tb.until(`!document.querySelector("#verdict-card .doubts")`)
	tb.choosesFile("#file", written(func(parts map[string]any) {
		parts["inForce"] = map[string]any{"error": "not intercepted: the namespace has none of our rules"}
		parts["status"] = map[string]any{"error": "not intercepted: the namespace has none of our rules"}
	}))
	tb.until(`document.getElementById("verdict-card").innerText.includes("There are no rules in that namespace")`)
	want(tb, `/was in force/.test(document.getElementById("verdict-card").innerText)`, false)
}

//go:build browser

package browser_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp/kb"

	"github.com/mesh-intercept/intercept/settings"
	"github.com/mesh-intercept/intercept/site/answer"
	"github.com/mesh-intercept/intercept/testing/gen"
)

const playground = "playground/index.html"

// play opens the playground, and waits for its first answer.
func play(t *testing.T, s screen) *tab {
	t.Helper()
	tb := open(t, playground, s)
	tb.until(`document.getElementById("answer")?.dataset.fate`)
	return tb
}

// ready waits until the library is loaded, as a movement of the mouse loads it.
func (tb *tab) ready() {
	tb.t.Helper()
	tb.do(`dispatchEvent(new Event("pointermove"))`)
	tb.until(`document.documentElement.dataset.library === "ready"`)
}

// answers is true, in the page, if it says a fate by a rule.
const answers = `(({ fate, rule }) => fate === %q && rule === %q)(document.getElementById("answer").dataset)`

// answered waits until the page says a fate by a rule.
func (tb *tab) answered(fate, rule string) {
	tb.t.Helper()
	tb.until(fmt.Sprintf(answers, fate, rule))
}

// do has the page do something.
func (tb *tab) do(statements string) {
	tb.t.Helper()
	eval[any](tb, statements+"; null")
}

// native asks the library here.
func native[T any](t *testing.T, request any) (response T) {
	t.Helper()
	text, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(answer.Ask(text), &response); err != nil {
		t.Fatal(err)
	}
	return response
}

type object = map[string]any

type verdict struct {
	Fate, ID string
	Error    *answer.Problem
}

func explain(t *testing.T, source, packet any) verdict {
	t.Helper()
	v := native[verdict](t, object{"op": "explain", "source": source, "packet": packet})
	if v.Error != nil {
		t.Fatalf("explain %v %v: %s", source, packet, v.Error.Text)
	}
	return v
}

// enter types into a control, in place of what is there, as somebody does who has it selected.
func (tb *tab) enter(selector, text string) {
	tb.t.Helper()
	tb.do(fmt.Sprintf(`((e) => {
		e.closest("details")?.setAttribute("open", "");
		e.focus();
		e.select();
	})(document.querySelector(%q))`, selector))
	// At once: what is half typed may be right, too, and would be answered.
	call(tb, input.InsertText, input.InsertTextParams{Text: text})
}

func (tb *tab) choose(selector, value string) {
	tb.t.Helper()
	tb.do(fmt.Sprintf(`((e) => {
		e.value = %q;
		e.dispatchEvent(new Event("change", { bubbles: true }));
	})(document.querySelector(%q))`, value, selector))
}

func (tb *tab) click(selector string) {
	tb.t.Helper()
	tb.do(fmt.Sprintf(`document.querySelector(%q).click()`, selector))
}

// TestPlaygroundWithoutAClick: who opens the page sees why a probe to 15021 is not captured, without the library.
func TestPlaygroundWithoutAClick(t *testing.T) {
	for _, s := range []screen{{width: 1280, height: 800}, {width: 360, height: 800, dark: true}} {
		tb := play(t, s)
		v := explain(t, object{}, object{"from": "outside", "dst": "10.244.0.5:15021"})
		tb.answered(v.Fate, v.ID)
		for _, words := range []string{"Not captured", "15021", "I6", "excluded port", "inbound.excludePorts", "I7"} {
			if text := eval[string](tb, `document.getElementById("verdict-card").innerText`); !strings.Contains(text, words) {
				t.Errorf("the answer does not say %q: %s", words, text)
			}
		}
		want(tb, `document.querySelector(".map .decided .name").textContent`, "prerouting")
		want(tb, `document.querySelector(".map .badge .id").textContent`, "I6")
		want(tb, `document.querySelector("li.decided .id").textContent`, "I6")
		want(tb, `document.querySelector(".field.deciding").querySelector("input").value`, "15020,15021,15090")
		want(tb, `document.getElementById("verdict").getBoundingClientRect().bottom < innerHeight`, true)
		if s.width > 1000 {
			want(tb, `document.querySelector(".map .decided").getBoundingClientRect().bottom < innerHeight`, true)
			want(tb, `document.querySelector(".config h2").getBoundingClientRect().bottom < innerHeight`, true)
		}
		for _, asked := range tb.requests() {
			if strings.Contains(asked, "wasm") {
				t.Errorf("the first view has loaded %s", asked)
			}
		}
		want(tb, `document.documentElement.dataset.library`, "asleep")
	}
}

// TestPlaygroundWeight: what the first view transfers where the host compresses texts, as hosts of static pages do.
func TestPlaygroundWeight(t *testing.T) {
	tb := play(t, screen{})
	asked := tb.requests()
	slices.Sort(asked)
	plain, packed := 0, 0
	for _, name := range slices.Compact(asked) {
		content, err := os.ReadFile(filepath.Join(directory, filepath.FromSlash(name)))
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		plain, packed = plain+len(content), packed+out.Len()
	}
	t.Logf("%d bytes in %d files, %d compressed", plain, len(asked), packed)
	if packed > 100_000 {
		t.Errorf("the first view is %d bytes, compressed", packed)
	}
}

type ready struct {
	ID     string
	Packet object
	Fields map[string]string
}

// TestPlaygroundScenarios: each ready packet has, with each ready configuration, the fate that the library gives here.
func TestPlaygroundScenarios(t *testing.T) {
	tb := play(t, screen{})
	tb.ready()
	configurations := eval[[]ready](tb, `import("./scenarios.js").then((m) => m.configurations)`)
	packets := eval[[]ready](tb, `import("./scenarios.js").then((m) => m.packets)`)
	if len(configurations) < 8 || len(packets) < 14 {
		t.Fatalf("%d configurations and %d packets", len(configurations), len(packets))
	}
	fates := map[string]int{}
	for _, c := range configurations {
		tb.choose("#preset", c.ID)
		for _, p := range packets {
			tb.click(fmt.Sprintf("#scenarios [value=%q]", p.ID))
			v := explain(t, object{"fields": c.Fields}, p.Packet)
			fates[v.Fate]++
			tb.until(fmt.Sprintf(`document.getElementById("preset").value === %q && `+answers, c.ID, v.Fate, v.ID))
		}
	}
	for _, fate := range []string{
		"pass", "redirect(15001)", "redirect(15006)", "redirect(15053)", "tproxy(15006)", "reject",
	} {
		if fates[fate] == 0 {
			t.Errorf("no ready packet has the fate %s: %v", fate, fates)
		}
	}
}

// TestPlaygroundRandom: the library in the browser answers what it answers here, to the byte.
func TestPlaygroundRandom(t *testing.T) {
	tb := play(t, screen{})
	tb.ready()
	const configs, packets, batch = 1000, 4, 50
	var requests []string
	var answers [][]byte
	good := 0
	for seed := range uint64(configs) {
		rng := rand.New(rand.NewPCG(seed, 30))
		c := gen.Config(rng)
		source := object{"form": "yaml", "text": string(settings.YAML(c))}
		for range packets {
			text, err := json.Marshal(object{"op": "explain", "source": source, "packet": randomPacket(rng)})
			if err != nil {
				t.Fatal(err)
			}
			said := answer.Ask(text)
			if bytes.Contains(said, []byte(`"fate"`)) {
				good++
			}
			requests, answers = append(requests, string(text)), append(answers, said)
		}
		if seed%20 == 0 { // the rules as texts, for nft(8) and others
			text, err := json.Marshal(object{"op": "rules", "source": source})
			if err != nil {
				t.Fatal(err)
			}
			said := answer.Ask(text)
			if !bytes.Contains(said, []byte(`{"text":"add table `)) {
				t.Errorf("there is no text for nft: %.500s", said)
			}
			requests, answers = append(requests, string(text)), append(answers, said)
		}
	}
	if good < len(requests)*4/5 {
		t.Errorf("only %d of %d questions have an answer; for example %s", good, len(requests), answers[0])
	}
	for i := 0; i < len(requests); i += batch {
		end := min(i+batch, len(requests))
		list, err := json.Marshal(requests[i:end])
		if err != nil {
			t.Fatal(err)
		}
		got := eval[[]string](tb, fmt.Sprintf(`(async () => {
			const { ask } = await import("./ask.js");
			return Promise.all(%s.map(async (text) => JSON.stringify(await ask(JSON.parse(text)))));
		})()`, list))
		for k, text := range got {
			if !sameJSON(t, []byte(text), answers[i+k]) {
				t.Fatalf("%s\nbrowser: %s\nhere:    %s", requests[i+k], text, answers[i+k])
			}
		}
	}
	t.Logf("%d questions, %d answered", len(requests), good)
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var of [2]any
	for i, text := range [][]byte{a, b} {
		if err := json.Unmarshal(text, &of[i]); err != nil {
			t.Fatal(err)
		}
	}
	x, _ := json.Marshal(of[0])
	y, _ := json.Marshal(of[1])
	return bytes.Equal(x, y)
}

func randomPacket(rng *rand.Rand) object {
	one := func(of ...string) string { return of[rng.IntN(len(of))] }
	p := object{
		"from":  one("app", "proxy", "outside"),
		"proto": one("tcp", "tcp", "tcp", "udp", "icmp"),
		"state": one("new", "new", "new", "established", "invalid"),
	}
	host := one("10.1.2.3", "192.0.2.7", "127.0.0.1", "127.0.0.6", "[::1]", "[2001:db8::7]", "[fd00::9]", "8.8.8.8")
	port := one("80", "443", "53", "15001", "15006", "15008", "15020", "15021", "15053", "8080", "5432",
		fmt.Sprint(1+rng.IntN(65535)))
	p["dst"] = host + ":" + port
	if p["proto"] == "icmp" {
		p["dst"] = strings.Trim(host, "[]")
	}
	if rng.IntN(3) == 0 && p["from"] != "outside" {
		p["toSelf"] = true
	}
	if rng.IntN(3) == 0 && p["from"] == "app" {
		p["uid"], p["gid"] = one("0", "1000", "1337", "2000"), one("0", "1000", "1337", "2000")
	}
	return p
}

// forms are the page's editors, and how each says that PostgreSQL's port is left alone.
var forms = []struct{ tab, control, text string }{
	{"form", "#field-outbound\\.excludePorts", "5432"},
	{"yaml", "#text-yaml", "outbound: {excludePorts: 5432}"},
	{"flags", "#text-flags", "mesh-init apply --outbound-exclude-ports 5432"},
	{"annotations", "#text-annotations",
		"intercept.mesh/enabled: \"true\"\nintercept.mesh/outbound-exclude-ports: \"5432\""},
	{"istio", "#text-istio",
		"istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -b '*' -d 15090,15021,15020 -o 5432"},
}

// TestPlaygroundForms: what is written in one form is in all others, and the answer is of it.
func TestPlaygroundForms(t *testing.T) {
	call := object{"from": "app", "dst": "203.0.113.10:5432"}
	for _, f := range forms {
		t.Run(f.tab, func(t *testing.T) {
			tb := play(t, screen{})
			tb.ready()
			tb.enter("#packet-port", "5432")
			tb.choose("#packet-from", "app")
			tb.answered("redirect(15001)", "O12")
			tb.click("#tab-" + f.tab)
			source := object{"form": f.tab, "text": f.text}
			if f.tab == "form" {
				source = object{"fields": object{"outbound.excludePorts": f.text}}
			}
			tb.enter(f.control, f.text)
			v := explain(t, source, call)
			if v.Fate != "pass" {
				t.Fatalf("%v: %v", source, v)
			}
			tb.answered(v.Fate, v.ID)
			read := native[answer.Read](t, object{"op": "read", "source": source})
			for _, other := range forms {
				want(tb, fmt.Sprintf(`document.querySelector(%q).value`, other.control), func() string {
					switch other.tab {
					case f.tab:
						return f.text
					case "form":
						return "5432"
					}
					return read.Forms[other.tab]
				}())
			}
			want(tb, `document.querySelector(".field.deciding").querySelector("input").id`, "field-outbound.excludePorts")
		})
	}
}

// TestPlaygroundErrors: what the library refuses is said at its field, in its words, and the answer stays that of the
// last configuration that was right.
func TestPlaygroundErrors(t *testing.T) {
	for _, f := range []struct{ tab, control, text, at string }{
		{"form", "#field-outbound\\.excludePorts", "80-70", "#problem-outbound\\.excludePorts"},
		{"yaml", "#text-yaml", "outbound:\n  excludePorts: 80-70\n", "#problems-yaml"},
		{"flags", "#text-flags", "mesh-init apply --outbound-exclude-ports 80-70", "#problems-flags"},
		{"annotations", "#text-annotations",
			"intercept.mesh/enabled: \"true\"\nintercept.mesh/outbound-exclude-ports: 80-70", "#problems-annotations"},
		{"istio", "#text-istio",
			"istio-iptables -o 80-70", "#problems-istio"},
	} {
		t.Run(f.tab, func(t *testing.T) {
			tb := play(t, screen{})
			tb.ready()
			tb.click("#tab-" + f.tab)
			tb.enter(f.control, f.text)
			source := object{"form": f.tab, "text": f.text}
			if f.tab == "form" {
				source = object{"fields": object{"outbound.excludePorts": f.text}}
			}
			failure := native[answer.Failure](t, object{"op": "read", "source": source})
			if failure.Error.Text == "" {
				t.Fatalf("the library takes %v", source)
			}
			tb.until(fmt.Sprintf(`document.querySelector(%q).innerText.includes(%q)`, f.at, failure.Error.Text))
			want(tb, fmt.Sprintf(`document.querySelector(%q).getAttribute("aria-invalid")`, f.control), "true")
			want(tb, fmt.Sprintf(`document.querySelector(%q).getAttribute("aria-describedby").split(" ")
				.some((id) => document.getElementById(id).innerText.includes(%q))`, f.control, failure.Error.Text), true)
			want(tb, `document.getElementById("answer").dataset.rule`, "I6")
			want(tb, `/error: this answer is of the last one/.test(document.getElementById("stale").innerText)`, true)
			if failure.Error.Line > 0 {
				tb.click(f.at + " button")
				want(tb, fmt.Sprintf(`((e) => e.value.slice(0, e.selectionStart).split("\n").length)
					(document.querySelector(%q))`, f.control), failure.Error.Line)
			}
			tb.accessible()
			tb.choose("#preset", "defaults")
			tb.until(`!document.querySelector("[aria-invalid=true]") && document.getElementById("stale").hidden`)
		})
	}
	t.Run("of several fields", func(t *testing.T) { // the first of them shows it
		tb := play(t, screen{})
		tb.ready()
		tb.enter("#field-proxy\\.gids", "none")
		tb.enter("#field-proxy\\.uids", "none")
		tb.until(`document.querySelector("#problem-proxy\\.uids").innerText.includes("neither a UID nor a GID nor a mark")`)
		tb.click("#field-outbound\\.port")
		tb.click("#config-errors button")
		want(tb, `document.activeElement.id`, "field-proxy.uids")
	})
	t.Run("packet", func(t *testing.T) {
		tb := play(t, screen{})
		tb.ready()
		tb.enter("#packet-port", "70000")
		tb.until(`["port", "to"].some((name) => document.getElementById("packet-problem-" + name).innerText !== "")`)
		want(tb, `document.querySelectorAll("#editor [aria-invalid=true]").length`, 1)
		// There is no answer: no colour of a fate, no picture, nothing to be copied.
		want(tb, `/captured|passed|stopped/.test(document.getElementById("answer").className)`, false)
		want(tb, `document.querySelectorAll(".field.deciding").length`, 0)
		want(tb, `["share", "map"].some((id) => document.getElementById(id).checkVisibility())`, false)
		colour := `getComputedStyle(document.querySelector(%q)).color`
		want(tb, fmt.Sprintf(colour, "#editor .problem:not([hidden])"),
			eval[string](tb, fmt.Sprintf(colour, ".field .problem")))
		tb.accessible()
		tb.enter("#packet-port", "8080")
		tb.answered("redirect(15006)", "I7")
		want(tb, `document.querySelector("#map svg").checkVisibility()`, true)
	})
}

// TestPlaygroundKeyboard: by keys alone somebody chooses a packet, changes a setting in two forms, and sees the rules;
// what has the focus is always to be seen.
func TestPlaygroundKeyboard(t *testing.T) {
	tb := play(t, screen{})
	focused := func() string {
		return eval[string](tb, `((e) => e.id || e.value || e.textContent.trim().slice(0, 30))(document.activeElement)`)
	}
	// to presses Tab until something has the focus.
	to := func(what string) {
		t.Helper()
		var seen []string
		for range 200 {
			tb.keys(kb.Tab)
			seen = append(seen, focused())
			if seen[len(seen)-1] == what {
				return
			}
			visible := eval[string](tb, `((e) => {
				if (e === document.body) return "";
				const seen = e.matches(".chip input") ? e.nextElementSibling : e;
				const b = seen.getBoundingClientRect();
				const style = getComputedStyle(seen);
				const name = e.outerHTML.slice(0, 120);
				if (b.bottom < 0 || b.top > innerHeight || b.width < 2) return name + " is not on the screen";
				if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) < 2) return name + " has no outline";
				return "";
			})(document.activeElement)`)
			if visible != "" {
				t.Error(visible)
			}
		}
		t.Fatalf("Tab does not come to %s: %q", what, seen)
	}
	to("probe")
	tb.keys(kb.ArrowRight)
	v := explain(t, object{}, object{"from": "outside", "dst": "10.244.0.5:8080"})
	tb.answered(v.Fate, v.ID)
	to("tab-form")
	tb.keys(kb.ArrowRight)
	want(tb, `document.activeElement.id`, "tab-yaml")
	to("text-yaml")
	call(tb, input.DispatchKeyEvent, input.DispatchKeyEventParams{
		Type: input.DispatchKeyEventTypeRawKeyDown, Commands: []string{"selectAll"},
	})
	tb.keys("inbound: {excludePorts: 8080}\n")
	tb.answered("pass", "I6")
	tb.keys(kb.Tab)
	if focused() == "text-yaml" {
		t.Error("Tab does not leave the editor")
	}
	to("tab-matrix")
	tb.keys(kb.ArrowRight)
	want(tb, `document.getElementById("tab-rules").getAttribute("aria-selected")`, "true")
	tb.until(`document.querySelector("#panel-rules .l.lit")?.textContent.includes("I6")`)
	for range 20 {
		tb.keys(kb.Tab)
		if eval[bool](tb, `document.activeElement.name === "backend"`) {
			break
		}
	}
	was := eval[string](tb, `document.activeElement.value`)
	tb.keys(kb.ArrowRight)
	tb.until(fmt.Sprintf(`((panel) => panel.querySelector(".l.lit") && panel.querySelector("input:checked").value !== %q)
		(document.getElementById("panel-rules"))`, was))
}

// TestPlaygroundViews: each view is accessible, in light and dark, and no view makes the page wider than the screen.
func TestPlaygroundViews(t *testing.T) {
	for _, dark := range []bool{false, true} {
		tb := play(t, screen{dark: dark})
		tb.ready()
		tb.choose("#preset", "strict")
		tb.click(`#scenarios [value="quic"]`)
		tb.answered("reject", "reject/O13.O12")
		tb.do(`for (const d of document.querySelectorAll("details")) d.open = true`)
		for _, view := range []string{"matrix", "rules", "diff", "lint", "node"} {
			tb.click("#tab-" + view)
			tb.until(fmt.Sprintf(`document.getElementById("panel-%s").children.length > 0`, view))
			tb.until(`!document.querySelector("main [aria-busy=true]")`)
			tb.accessible()
			for _, width := range []int64{360, 412, 768, 1000, 1280, 1900, 2560} {
				tb.fits(width)
			}
			tb.resize(1280, 900)
		}
		for _, form := range []string{"yaml", "flags", "annotations", "istio"} {
			tb.click("#tab-" + form)
			tb.accessible()
			for _, width := range []int64{360, 1000, 2560} {
				tb.fits(width)
			}
			tb.resize(1280, 900)
		}
	}
}

// TestPlaygroundLink: the address of a case, opened elsewhere, shows the same case.
func TestPlaygroundLink(t *testing.T) {
	tb := play(t, screen{})
	want(tb, `location.hash`, "")
	tb.ready()
	tb.choose("#preset", "some")
	tb.click(`#scenarios [value="service"]`)
	tb.enter("#packet-port", "5432")
	tb.answered("pass", "O5.ports")
	tb.until(`location.hash.length > 1`)
	hash := eval[string](tb, `location.hash`)
	other := open(t, playground+hash, screen{width: 400, height: 800})
	other.answered("pass", "O5.ports")
	for _, same := range []string{`document.getElementById("text-yaml").value`, `document.getElementById("preset").value`,
		`document.getElementById("packet-port").value`, `document.getElementById("packet-to").value`, `location.hash`} {
		want(other, same, eval[string](tb, same))
	}
	// The same page goes on to another case when its address changes.
	other.do(`location.hash = ""`)
	other.answered("pass", "I6")
	// And an address that names no case says so, and shows the first one.
	broken := open(t, playground+"#v1.garbage", screen{})
	broken.answered("pass", "I6")
	broken.until(`document.getElementById("news").innerText !== ""`)
	// So does one with a value that is refused, and the page goes on to work.
	broken.do(`location.hash = "1&dns=al&packet.dst=10.1.2.3:443"`)
	broken.until(`/refused.*"al" is not one of/.test(document.getElementById("news").innerText)`)
	broken.do(`location.hash = "config-title"`) // a place on the page
	broken.until(`document.getElementById("news").hidden`)
	broken.click(`#scenarios [value="service"]`)
	broken.answered("redirect(15001)", "O12")
	broken.do(`location.hash = "1&dns=all&packet.from=app&packet.dst=10.1.2.3:443"`)
	broken.until(`document.getElementById("news").hidden`)
	broken.answered("redirect(15001)", "O12")
}

// TestPlaygroundOffline: once it has been opened it works without a network.
func TestPlaygroundOffline(t *testing.T) {
	tb := play(t, screen{})
	tb.ready()
	tb.until(`"kept" in document.documentElement.dataset`)
	// What the browser happens to have does not count.
	call(tb, network.SetCacheDisabled, network.SetCacheDisabledParams{CacheDisabled: true})
	offline.Store(true)
	defer offline.Store(false)
	tb.visit(playground)
	tb.answered("pass", "I6")
	tb.ready()
	tb.choose("#preset", "dns")
	tb.click(`#scenarios [value="dns-udp"]`)
	tb.answered("redirect(15053)", "O8.udp")
	want(tb, `getComputedStyle(document.querySelector(".config")).borderRadius`, "12px")
	// The site's own styles, too.
	want(tb, `getComputedStyle(document.documentElement).getPropertyValue("--paper") !== ""`, true)
}

// TestPlaygroundWithoutScript: the first answer is in the page itself, as it is shown with scripts.
func TestPlaygroundWithoutScript(t *testing.T) {
	words := func(tb *tab) string {
		return eval[string](tb, `document.getElementById("verdict-card").innerText.replace(/\s+/g, " ")`)
	}
	without := open(t, playground, screen{noScript: true})
	if got, with := words(without), words(play(t, screen{})); got != with {
		t.Errorf("without scripts: %s\nwith:            %s", got, with)
	}
}

// TestPlaygroundUpdate: who has the page kept is told of a newer version, and says when it takes over.
func TestPlaygroundUpdate(t *testing.T) {
	keeper := filepath.Join(directory, "playground", "sw.js")
	was, err := os.ReadFile(keeper)
	if err != nil {
		t.Fatal(err)
	}
	tb := play(t, screen{})
	tb.ready()
	tb.until(`"kept" in document.documentElement.dataset`)
	t.Cleanup(func() {
		if err := os.WriteFile(keeper, was, 0o644); err != nil {
			t.Error(err)
		}
	})
	newer := bytes.Replace(was, []byte(`const version = "`), []byte(`const version = "newer-`), 1)
	if err := os.WriteFile(keeper, newer, 0o644); err != nil {
		t.Fatal(err)
	}
	tb.visit(playground)
	tb.ready()
	tb.until(`document.querySelector("#news button")`)
	want(tb, `caches.keys().then((names) => names.filter((name) => name.startsWith("playground-")).length)`, 2)
	tb.click("#news button")
	tb.until(`document.getElementById("news")?.hidden`)
	tb.until(`caches.keys().then((names) => names.every((name) => name.startsWith("playground-newer-")))`)
	tb.answered("pass", "I6")
}

// TestPlaygroundFields: the settings that the page names as those of a rule exist.
func TestPlaygroundFields(t *testing.T) {
	tb := play(t, screen{})
	known := map[string]bool{}
	for _, f := range native[answer.Schema](t, object{"op": "schema"}).Fields {
		known[f.Path] = true
	}
	byRule := eval[map[string][]string](tb, `import("./answer.js").then((m) => m.fields)`)
	if len(byRule) < 20 {
		t.Fatalf("%d rules", len(byRule))
	}
	for rule, paths := range byRule {
		for _, path := range paths {
			if !known[path] {
				t.Errorf("%s: there is no field %s", rule, path)
			}
		}
	}
}

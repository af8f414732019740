//go:build browser

package browser_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestPages: every page is small, fits on a telephone and on a wall, and is accessible, in light and dark.
func TestPages(t *testing.T) {
	for _, path := range paths(t) {
		t.Run(strings.ReplaceAll(path, "/", "_"), func(t *testing.T) {
			tb := open(t, path, screen{})
			plain, sent := tb.weight()
			t.Logf("%d bytes at first, %d as they are sent", plain, sent)
			if sent > 100_000 {
				t.Error("that is more than 100 kB")
			}
			tb.accessible()
			for _, width := range []int64{2560, 1280, 800, 360} {
				tb.fits(width)
			}
			run(tb, chromedp.Click(chromedp.CSS("button.theme")))
			want(tb, `document.documentElement.dataset.theme`, "dark")
			tb.accessible("color-contrast", "scrollable-region-focusable", "aria-allowed-attr")
		})
	}
}

// TestKeyboard: everything can be done without a mouse.
func TestKeyboard(t *testing.T) {
	const focused = `document.activeElement.textContent.trim()`
	tb := open(t, "docs/operations.html", screen{})
	tb.until(`!document.getElementById("search").hidden`)

	tb.keys(kb.Tab)
	want(tb, focused, "Skip to the content")
	want(tb, `document.activeElement.getBoundingClientRect().left >= 0`, true)
	tb.keys(kb.Enter)
	want(tb, `document.activeElement.id`, "main")

	// The theme, which stays.
	run(tb, chromedp.Focus(chromedp.CSS("button.theme")))
	tb.keys(" ")
	want(tb, `document.documentElement.dataset.theme`, "dark")

	// The search: a key leads there, arrows choose, Escape closes.
	tb.keys("/", "drop", "-invalid")
	tb.until(`document.querySelectorAll("#found [role=option]").length > 2`)
	want(tb, `document.activeElement.id`, "find")
	want(tb, `document.querySelector("#found [aria-selected=true]").id`, "found-0")
	tb.keys(kb.ArrowDown, kb.ArrowDown, kb.ArrowUp)
	want(tb, `document.activeElement.getAttribute("aria-activedescendant")`, "found-1")
	tb.accessible()
	tb.shoot("search")
	tb.keys(kb.Escape)
	want(tb, `document.getElementById("results").hidden`, true)
	tb.keys(kb.ArrowDown)
	tb.until(`!document.getElementById("results").hidden`)
	to := eval[string](tb, `document.querySelector("#found [aria-selected=true]").href`)
	tb.leads(func() { tb.keys(kb.Enter) })
	want(tb, `location.href`, to)
	want(tb, `document.documentElement.dataset.theme`, "dark")

	// What is wider than the page scrolls by the arrows.
	tb.visit("docs/design.html")
	tb.resize(500, 900)
	tb.until(`document.querySelector("pre[tabindex='0'][role=region][aria-label]")`)
	run(tb, chromedp.Focus(chromedp.CSS("pre[tabindex='0']")))
	tb.keys(kb.ArrowRight)
	tb.until(`document.activeElement.scrollLeft > 0`)

	// On a narrow screen the pages and the contents are behind buttons, which Escape closes.
	tb.visit("docs/operations.html")
	tb.resize(360, 700)
	for button, nav := range map[string]string{"All pages": "pages", "On this page": "toc"} {
		open := `document.getElementById("` + nav + `").matches(":popover-open")`
		run(tb, chromedp.Focus(chromedp.CSS(`button[popovertarget="`+nav+`"]`)))
		want(tb, focused, button)
		tb.keys(kb.Enter)
		want(tb, open, true)
		tb.accessible()
		tb.shoot("narrow-" + nav)
		tb.keys(kb.Tab)
		want(tb, `document.activeElement.closest("nav").id`, nav)
		tb.keys(kb.Escape)
		want(tb, open, false)
		want(tb, focused, button)
	}
}

// TestSearch: who asks for a thing is led to where it is explained.
func TestSearch(t *testing.T) {
	tb := open(t, "index.html", screen{})
	tb.until(`!document.getElementById("search").hidden`)
	for _, path := range tb.requests() {
		if strings.Contains(path, "search.json") {
			t.Error("the index is asked for before somebody searches")
		}
	}
	tb.fill("#find", "")
	tb.until(`performance.getEntriesByName(new URL("search.js", document.baseURI)).length`)
	for words, place := range map[string]string{
		"quickstart":       "docs/quickstart.html",
		"playground":       "playground/index.html",
		"exit codes":       "README.html#exit-codes",
		"rule ids":         "docs/policy.html#rule-ids",
		"Helm":             "docs/helm.html",
		"symptom command":  "docs/operations.html#from-symptom-to-command",
		"machine outside":  "docs/release.html#a-machine-outside-a-cluster",
		"in go":            "README.html#in-go",
		"no such word xyz": "",
	} {
		tb.fill("#find", "")
		want(tb, `document.getElementById("results").hidden`, true)
		tb.fill("#find", words)
		if place == "" {
			tb.until(`document.getElementById("tally").textContent === "Nothing found"`)
			continue
		}
		tb.until(`document.querySelector("#found a mark")`)
		links := eval[[]string](tb, `[...document.querySelectorAll("#found a")].slice(0, 3).map((a) => a.getAttribute("href"))`)
		if !slices.Contains(links, place) {
			t.Errorf("%q finds %q first, and not %s", words, links, place)
		}
	}
	// What is found may be markup, and is text.
	tb.fill("#find", "")
	tb.fill("#find", "<img")
	tb.until(`!document.getElementById("results").hidden`)
	want(tb, `document.querySelectorAll("#results img").length`, 0)
}

// TestTheme: as the system has it, until somebody chooses; then as chosen, on every page.
func TestTheme(t *testing.T) {
	const paper = `getComputedStyle(document.body).backgroundColor`
	light, dark := "rgb(255, 255, 255)", "rgb(14, 18, 23)"
	tb := open(t, "index.html", screen{dark: true})
	want(tb, paper, dark)
	want(tb, `document.querySelector("button.theme").getAttribute("aria-pressed")`, "true")
	tb.shoot("front-dark")
	run(tb, chromedp.Click(chromedp.CSS("button.theme")))
	want(tb, paper, light)
	tb.visit("docs/policy.html")
	want(tb, paper, light)
	run(tb, chromedp.Click(chromedp.CSS("button.theme")))
	want(tb, paper, dark)
	tb.shoot("policy-dark")
	want(open(t, "index.html", screen{}), paper, light)
}

// TestMissing: any path that does not exist says so, with styles and ways on.
func TestMissing(t *testing.T) {
	tb := open(t, "no/such/page.html", screen{})
	want(tb, `document.querySelector("h1").textContent`, "There is no such page")
	want(tb, `getComputedStyle(document.querySelector(".top")).display`, "flex")
	tb.until(`!document.getElementById("search").hidden`)
	run(tb, chromedp.Focus(chromedp.CSS("#find")))
	tb.keys("quickstart")
	tb.until(`document.querySelector("#found a")`)
	to := eval[string](tb, `document.querySelector("#found a").href`)
	tb.leads(func() { tb.keys(kb.Enter) })
	want(tb, `location.href`, to)
}

// TestWithoutScript: the documents can be read and walked through by who runs no scripts.
func TestWithoutScript(t *testing.T) {
	tb := open(t, "docs/policy.html", screen{noScript: true})
	for selector, shown := range map[string]bool{"article h1": true, "#pages a": true, "#toc a": true, "#search": false, "button.theme": false} {
		want(tb, `document.querySelector(`+quote(selector)+`).checkVisibility()`, shown)
	}
}

func quote(s string) string { return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"` }

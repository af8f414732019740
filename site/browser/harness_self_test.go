//go:build browser

package browser_test

import (
	"strings"
	"testing"
)

// TestNotices: what the tests look for they would see.
func TestNotices(t *testing.T) {
	tb := open(t, "docs/quickstart.html", screen{})
	eval[any](tb, `fetch("https://example.com/a").catch(() => null)`)
	eval[any](tb, `new Promise((done) => {
		const script = document.createElement("script");
		script.textContent = "globalThis.ran = true";
		document.body.append(script);
		const style = document.createElement("b");
		style.setAttribute("style", "color: red");
		document.body.append(style);
		setTimeout(() => { setTimeout(() => done(null)); throw new Error("of a script"); });
	})`)
	want(tb, `!globalThis.ran`, true)
	said := strings.Join(tb.complaints(), "\n")
	for _, part := range []string{"https://example.com/a", "script-src", "style-src", "of a script"} {
		if !strings.Contains(said, part) {
			t.Errorf("nothing is said of %s, but\n%s", part, said)
		}
	}

	eval[any](tb, `document.querySelector("main").insertAdjacentHTML("beforeend", "<img src='../icon.svg' width='600' class='bad'>"), null`)
	if out := tb.sticksOut(360); !strings.Contains(out, "bad") {
		t.Errorf("a picture of 600 px fits a page of 360, it seems: %q", out)
	}
	if found := strings.Join(tb.violations(), "\n"); !strings.Contains(found, "image-alt") {
		t.Errorf("a picture without words is accessible, it seems: %s", found)
	}
}

// TestNoStrangers: where the policy would let a page ask somebody else, the browser does not get there, and it is said.
func TestNoStrangers(t *testing.T) {
	tb := open(t, "index.html", screen{})
	tb.leads(func() { eval[any](tb, `location.href = "https://example.com/elsewhere", null`) })
	if said := strings.Join(tb.complaints(), "\n"); !strings.Contains(said, "it asks https://example.com/elsewhere") {
		t.Errorf("nothing is said of it, but %s", said)
	}
}

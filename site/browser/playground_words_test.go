//go:build browser

package browser_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/page"
)

// TestPlaygroundWords: a setting is named where it decides, and only there; and the picture says what the answer says.
func TestPlaygroundWords(t *testing.T) {
	tb := play(t, screen{})
	tb.ready()
	for _, test := range []struct {
		preset, packet, port, fate, rule, marked, says string
	}{
		{"defaults", "dns-udp", "", "pass", "O14", "",
			"O12 (every destination is included) takes new TCP connections alone, and this is UDP."},
		{"defaults", "quic", "", "pass", "O14", "", "and this is UDP."},
		{"defaults", "ping", "", "pass", "O14", "", "and this is ICMP."},
		{"defaults", "service", "", "redirect(15001)", "O12", "outbound.includeCIDRs", "fits"},
		{"defaults", "ingress", "15020", "pass", "I6", "inbound.excludePorts",
			"to port 15020, where mesh-probe listens, beside the proxy"},
		{"defaults", "tunnel", "", "pass", "I4", "tunnelPort", "to port 15008, where the proxy itself listens"},
		{"defaults", "proxy", "", "pass", "O4.uid", "proxy.uids", "it goes on untouched"},
		{"gateway", "ingress", "", "pass", "", "inbound.mode", "No rule is about it: inbound.mode is off"},
	} {
		tb.choose("#preset", test.preset)
		tb.click(fmt.Sprintf("#scenarios [value=%q]", test.packet))
		if test.port != "" {
			tb.enter("#packet-port", test.port)
		}
		tb.until(fmt.Sprintf(`document.getElementById("preset").value === %q && `+answers, test.preset, test.fate, test.rule))
		tb.until(fmt.Sprintf(`document.getElementById("verdict-card").innerText.includes(%q)`, test.says))
		want(tb, `document.querySelector(".field.deciding label code")?.textContent ?? ""`, test.marked)
		title := eval[string](tb, `document.getElementById("map-title").textContent`)
		headline := eval[string](tb, `document.getElementById("verdict").textContent`)
		if !strings.HasPrefix(title, headline+"; ") || strings.Contains(title, "by way of ;") || strings.HasSuffix(title, " ") {
			t.Errorf("the picture says %q, and the answer %q", title, headline)
		}
	}
	tb.choose("#cases", "established")
	tb.until(`document.getElementById("verdict-card").innerText.includes("and this packet opens none.")`)
	want(tb, `document.querySelectorAll(".field.deciding").length`, 0)
}

// TestPlaygroundCold: who opens a link does not see the answer to another question while the library is loaded.
func TestPlaygroundCold(t *testing.T) {
	tb := open(t, "index.html", screen{})
	call(tb, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: `
		window.said = [];
		addEventListener("DOMContentLoaded", () => { // the page's modules have begun by now
			const look = () => {
				const now = document.getElementById("verdict").textContent;
				if (now !== window.said.at(-1)) window.said.push(now);
			};
			look();
			new MutationObserver(look).observe(document.getElementById("verdict-card"), { childList: true });
		});`})
	tb.visit(playground + "#1&packet.from=proxy&packet.dst=10.244.0.5:8080&packet.to-self=true")
	tb.answered("redirect(15006)", "O3.uid")
	said := eval[[]string](tb, `window.said.map((text) => text.split(":")[0])`)
	if strings.Join(said, ", ") != "Being worked out…, Captured" {
		t.Errorf("the answer was %q", said)
	}
}

// TestPlaygroundWorking: what takes time says so, and the packet's question does not wait for it.
func TestPlaygroundWorking(t *testing.T) {
	tb := play(t, screen{})
	// Until the library is there, too.
	tb.do(`new MutationObserver(([{ target }]) => {
		window.said ??= target.textContent;
	}).observe(document.getElementById("panel-matrix"), { childList: true });`)
	want(tb, `/as soon as you touch the page/.test(document.getElementById("panel-matrix").textContent)`, true)
	tb.ready()
	tb.do(`document.getElementById("views").scrollIntoView()`)
	tb.until(`window.said === "Being worked out…"`)
	tb.until(`document.querySelector("#panel-matrix table")`)
	// The library answers when the test lets it.
	tb.do(`const post = Worker.prototype.postMessage;
		window.held = [];
		Worker.prototype.postMessage = function (message) { held.push(() => post.call(this, message)); };
		window.free = () => { Worker.prototype.postMessage = post; for (const go of held.splice(0)) go(); }`)
	tb.click("#tab-rules")
	tb.until(`document.querySelector("#panel-rules .working")`)
	tb.enter("#packet-port", "8443")
	tb.until(`!document.getElementById("working").hidden`)
	tb.do(`free()`)
	tb.answered("redirect(15006)", "I7")
	tb.until(`document.querySelector("#panel-rules .l.lit") && !document.querySelector(".working:not(#working)")`)
	want(tb, `document.getElementById("working").hidden`, true)
}

// TestPlaygroundEdges: what stands below one another begins at one edge, on the widest screen, too.
func TestPlaygroundEdges(t *testing.T) {
	for _, width := range []int64{1280, 2560} {
		tb := play(t, screen{width: width})
		want(tb, `Math.round(document.querySelector("footer p").getBoundingClientRect().left -
			document.querySelector(".config").getBoundingClientRect().left)`, 0)
	}
}

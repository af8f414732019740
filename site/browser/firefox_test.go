//go:build browser

package browser_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/mesh-intercept/intercept/testing/netlab"
)

// fox is a Firefox, spoken to by WebDriver BiDi (https://w3c.github.io/webdriver-bidi/), which it has without a driver.
type fox struct {
	t       *testing.T
	ws      *websocket.Conn
	context string // of its tab
	asked   int    // commands

	mu      sync.Mutex
	answers map[int]chan json.RawMessage
	said    []string // what pages do that they may not do
}

// preferences keep Firefox from asking anybody but the site: everything else goes to a proxy that is not there.
const preferences = `
user_pref("network.proxy.type", 1);
user_pref("network.proxy.http", "127.0.0.1");
user_pref("network.proxy.http_port", 9);
user_pref("network.proxy.ssl", "127.0.0.1");
user_pref("network.proxy.ssl_port", 9);
user_pref("network.proxy.no_proxies_on", "127.0.0.1");
user_pref("app.update.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("services.settings.server", "http://127.0.0.1:9");
user_pref("toolkit.telemetry.server", "");
`

// startFirefox starts one with a tab, which ends with the test.
func startFirefox(t *testing.T) *fox {
	t.Helper()
	netlab.RequireProgram(t, "firefox-esr")
	if _, err := browser(); err != nil { // which serves the site
		t.Fatal(err)
	}
	profile := t.TempDir()
	if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(preferences), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "firefox-esr", "--headless", "--no-remote", "--profile", profile,
		"--remote-debugging-port", "0", "--remote-allow-origins", origin, "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+profile, "MOZ_CRASHREPORTER_DISABLE=1", "MOZ_DISABLE_CONTENT_SANDBOX=1")
	cmd.WaitDelay = 10 * time.Second
	output, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // as killed
	})
	f := &fox{t: t, answers: map[int]chan json.RawMessage{}}
	lines := bufio.NewScanner(output)
	address := ""
	for address == "" && lines.Scan() {
		_, address, _ = strings.Cut(lines.Text(), "WebDriver BiDi listening on ")
	}
	if address == "" {
		t.Fatalf("Firefox ends without a word of where it listens: %v", lines.Err())
	}
	go func() { _, _ = io.Copy(io.Discard, output) }() // so that it never waits to be read
	if f.ws, err = websocket.Dial(address+"/session", "", origin); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.ws.Close() })
	go f.listen()
	f.call("session.new", map[string]any{"capabilities": map[string]any{}})
	f.call("session.subscribe", map[string]any{"events": []string{"log.entryAdded", "network.beforeRequestSent"}})
	var tab struct {
		Context string `json:"context"`
	}
	if err := json.Unmarshal(f.call("browsingContext.create", map[string]any{"type": "tab"}), &tab); err != nil {
		t.Fatal(err)
	}
	f.context = tab.Context
	return f
}

// listen hands answers to who waits for them, and keeps what pages do that they may not do.
func (f *fox) listen() {
	for {
		var m struct {
			ID      int             `json:"id"`
			Type    string          `json:"type"`
			Method  string          `json:"method"`
			Message string          `json:"message"`
			Result  json.RawMessage `json:"result"`
			Params  struct {
				Level   string `json:"level"`
				Text    string `json:"text"`
				Request struct {
					URL string `json:"url"`
				} `json:"request"`
			} `json:"params"`
		}
		if err := websocket.JSON.Receive(f.ws, &m); err != nil {
			return // it has ended
		}
		f.mu.Lock()
		switch {
		case m.Type == "success":
			f.answers[m.ID] <- m.Result
		case m.Type == "error":
			f.said = append(f.said, m.Message)
			close(f.answers[m.ID])
		case m.Method == "log.entryAdded" && m.Params.Level == "error":
			f.said = append(f.said, m.Params.Text)
		case m.Method == "network.beforeRequestSent":
			url := m.Params.Request.URL
			if !strings.HasPrefix(url, origin+base) && !strings.HasPrefix(url, "data:") && !strings.HasPrefix(url, "blob:") {
				f.said = append(f.said, "it asks "+url)
			}
		}
		f.mu.Unlock()
	}
}

// call is what Firefox answers to a command.
func (f *fox) call(method string, params map[string]any) json.RawMessage {
	f.t.Helper()
	answer := make(chan json.RawMessage, 1)
	f.mu.Lock()
	f.asked++
	id := f.asked
	f.answers[id] = answer
	f.mu.Unlock()
	if err := websocket.JSON.Send(f.ws, map[string]any{"id": id, "method": method, "params": params}); err != nil {
		f.t.Fatal(err)
	}
	select {
	case result, ok := <-answer:
		if ok {
			return result
		}
		f.t.Fatalf("%s: %q", method, f.complaints())
	case <-time.After(patience):
		f.t.Fatalf("%s: no answer in %v", method, patience)
	}
	return nil
}

func (f *fox) complaints() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.said = nil }()
	return f.said
}

// visit opens a path of the site, on a screen of a width.
func (f *fox) visit(path string, width int) {
	f.t.Helper()
	f.resize(width)
	f.call("browsingContext.navigate", map[string]any{"context": f.context, "url": origin + base + path, "wait": "complete"})
}

func (f *fox) resize(width int) {
	f.t.Helper()
	f.call("browsingContext.setViewport", map[string]any{
		"context": f.context, "viewport": map[string]any{"width": width, "height": 900},
	})
}

// eval is the value of an expression in the page, or of the promise that it is, as text.
func (f *fox) eval(expression string) string {
	f.t.Helper()
	raw := f.call("script.evaluate", map[string]any{
		"expression": "Promise.resolve(" + expression + ").then(String)", "awaitPromise": true,
		"target": map[string]any{"context": f.context},
	})
	var answer struct {
		Result struct {
			Value string `json:"value"`
		} `json:"result"`
		ExceptionDetails struct {
			Text string `json:"text"`
		} `json:"exceptionDetails"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.ExceptionDetails.Text != "" {
		f.t.Fatalf("%s: %s %v", expression, answer.ExceptionDetails.Text, err)
	}
	return answer.Result.Value
}

// becomes is a promise of an expression's being true.
func becomes(expression string) string {
	return fmt.Sprintf(`new Promise((done) => { const look = () => (%s) ? done(true) : requestAnimationFrame(look); look(); })`, expression)
}

// TestFirefox: the site is of no one browser's making: its pages, its search and its menus work in Firefox, too.
func TestFirefox(t *testing.T) {
	f := startFirefox(t)
	// One page of each kind: what Chromium has measured on all of them is not measured again.
	for _, path := range []string{
		"index.html", "404.html", "README.html", "docs/index.html", "docs/configuration.html", "docs/design.html",
		"docs/operations.html", "docs/performance.html", "playground/index.html",
	} {
		f.visit(path, 1280)
		for _, width := range []int{1280, 360} {
			f.resize(width)
			const page = `document.documentElement`
			if f.eval(page+`.scrollWidth > `+page+`.clientWidth`) != "false" {
				t.Errorf("%s: at %d px the page is %s px wide", path, width, f.eval(page+`.scrollWidth`))
			}
		}
		for _, c := range f.complaints() {
			t.Errorf("%s: %s", path, c)
		}
	}

	f.visit("docs/operations.html", 360)
	for _, test := range []struct{ expression, want string }{
		{`document.querySelector("[popovertarget=pages]").click(), document.getElementById("pages").matches(":popover-open")`, "true"},
		{`document.getElementById("pages").hidePopover(), document.getElementById("pages").checkVisibility()`, "false"},
		{`getComputedStyle(document.querySelector("pre")).overflowX`, "auto"},
	} {
		if got := f.eval("(" + test.expression + ")"); got != test.want {
			t.Errorf("%s: %s, want %s", test.expression, got, test.want)
		}
	}
	f.visit("index.html", 1280)
	f.eval(becomes(`!document.getElementById("search").hidden`))
	f.eval(`(document.getElementById("find").focus(), document.getElementById("find").value = "rule ids",
		document.getElementById("find").dispatchEvent(new InputEvent("input")))`)
	f.eval(becomes(`document.querySelector("#found a")`))
	if got := f.eval(`document.querySelector("#found a").href`); got != origin+base+"docs/policy.html#rule-ids" {
		t.Errorf("the search finds %s first", got)
	}
	for _, c := range f.complaints() {
		t.Error(c)
	}
}

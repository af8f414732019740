//go:build browser

// Package browser_test opens the site in a browser, as people do. `make site-test` makes the site and runs it.
package browser_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/mesh-intercept/intercept/site/internal/serve"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// patience is how long a page may take for what it is asked, on a machine that has much else to do.
const patience = time.Minute

var (
	// directory is the site.
	directory = filepath.Join("..", "..", "dist", "site")
	// browser is the one browser that all tests share, once the first has started it.
	browser = sync.OnceValues(start)
	// origin is where the site is, and base the path under which it is made to be served.
	origin, base string
	stop         = func() {}
)

func TestMain(m *testing.M) {
	code := m.Run()
	stop()
	os.Exit(code)
}

// offline makes the site one that nobody reaches.
var offline atomic.Bool

// start serves the site on a loopback port and starts a browser, which reaches nothing else.
func start() (context.Context, error) {
	if _, err := os.Stat(filepath.Join(directory, "index.html")); err != nil {
		return nil, fmt.Errorf("no site: %w; run make site-test", err)
	}
	missing, err := os.ReadFile(filepath.Join(directory, "404.html"))
	if err != nil {
		return nil, err
	}
	_, styles, _ := strings.Cut(string(missing), `rel="stylesheet" href="`)
	base, _, _ = strings.Cut(styles, "site.css")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	origin = "http://" + listener.Addr().String()
	site := serve.Handler(base, directory)
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if offline.Load() {
				panic(http.ErrAbortHandler) // the connection ends without an answer
			}
			site.ServeHTTP(w, r)
		})}
	go func() { _ = server.Serve(listener) }() // until it is closed

	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"),
		chromedp.NoSandbox, // which root cannot have
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-domain-reliability", true),
		chromedp.Flag("force-prefers-reduced-motion", true),
		chromedp.WSURLReadTimeout(patience),
	)
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, stopBrowser := chromedp.NewContext(allocator)
	stop = func() {
		_ = chromedp.Cancel(ctx) // waits for the browser to end
		stopBrowser()
		stopAllocator()
		_ = server.Close()
	}
	return ctx, chromedp.Do(ctx)
}

// screen is how a person looks at the site.
type screen struct {
	width, height int64 // 1280 × 900 if 0
	dark          bool
	noScript      bool
}

// tab is a page of the browser, with a store and a cache of its own. What a page of ours may not do fails the test:
// errors in its scripts, what its policy refuses, requests to anybody else.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	visited  string   // by visit, which may lead to no page on purpose
	asked    []string // URLs, in order
	complain []string
}

// open opens a path of the site in a new tab, and waits until it is loaded.
func open(t *testing.T, path string, s screen) *tab {
	t.Helper()
	netlab.RequireProgram(t, "chromium")
	parent, err := browser()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := chromedp.NewContext(parent, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	tb := &tab{t: t, ctx: ctx}
	if err := chromedp.Listen(ctx, tb.event); err != nil {
		t.Fatal(err)
	}
	if s.width == 0 {
		s.width = 1280
	}
	if s.height == 0 {
		s.height = 900
	}
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	call(tb, fetch.Enable, fetch.EnableParams{})
	call(tb, log.Enable, cdp.Empty{})
	tb.resize(s.width, s.height)
	call(tb, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
	call(tb, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: s.noScript})
	tb.visit(path)
	t.Cleanup(func() {
		for _, c := range tb.complaints() {
			t.Errorf("%s: %s", path, c)
		}
	})
	return tb
}

// complaints are what the page has done that it may not do, since the last time.
func (tb *tab) complaints() []string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	defer func() { tb.complain = nil }()
	return tb.complain
}

// visit goes to a path of the site.
func (tb *tab) visit(path string) {
	tb.t.Helper()
	tb.mu.Lock()
	tb.visited = origin + base + path
	tb.mu.Unlock()
	run(tb, chromedp.Navigate(origin+base+path))
}

// event hears what the page does.
func (tb *tab) event(event any) {
	note := func(format string, args ...any) {
		tb.mu.Lock()
		defer tb.mu.Unlock()
		tb.complain = append(tb.complain, fmt.Sprintf(format, args...))
	}
	switch e := event.(type) {
	case *fetch.EventRequestPaused:
		url := e.Request.URL
		tb.mu.Lock()
		tb.asked = append(tb.asked, url)
		tb.mu.Unlock()
		ours := strings.HasPrefix(url, origin+base) || strings.HasPrefix(url, "data:") || strings.HasPrefix(url, "blob:"+origin)
		if !ours {
			note("it asks %s", url)
		}
		go func() { // the browser hears nothing while it is heard
			var err error
			if ours {
				_, err = chromedp.Call(tb.ctx, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: e.RequestID})
			} else {
				_, err = chromedp.Call(tb.ctx, fetch.FailRequest, fetch.FailRequestParams{
					RequestID: e.RequestID, ErrorReason: network.ErrorReasonBlockedByClient,
				})
			}
			if err != nil && tb.ctx.Err() == nil {
				note("%s: %v", url, err)
			}
		}()
	case *runtime.EventExceptionThrown:
		d := e.ExceptionDetails
		what := d.Text
		if d.Exception != nil {
			what += " " + d.Exception.Description
		}
		note("a script fails: %s:%d: %s", d.URL, d.LineNumber+1, what)
	case *log.EventEntryAdded:
		tb.mu.Lock()
		visited := tb.visited
		tb.mu.Unlock()
		if e.Entry.Level == log.EntryLevelError && e.Entry.URL != visited {
			note("the browser says: %s", e.Entry.Text)
		}
	}
}

// run is what an action yields. It ends the test if that fails, or takes too long.
func run[T any](tb *tab, action chromedp.Action[T]) T {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		tb.t.Fatal(err)
	}
	return value
}

// call asks the browser for something.
func call[P, R any](tb *tab, command cdp.Command[P, R], params P) R {
	tb.t.Helper()
	return run(tb, func(ctx context.Context, target *chromedp.Target) (R, error) {
		return cdp.Call(ctx, target, command, params)
	})
}

func (tb *tab) resize(width, height int64) {
	tb.t.Helper()
	call(tb, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600,
	})
}

// eval is the value of an expression in the page, or of the promise that it is.
func eval[T any](tb *tab, expression string) (value T) {
	tb.t.Helper()
	got := run(tb, chromedp.Evaluate[[]byte](expression, chromedp.EvalAwaitPromise))
	if err := json.Unmarshal(got, &value); err != nil {
		tb.t.Fatalf("%.200s: %v", expression, err)
	}
	return value
}

// until waits for an expression to be true.
func (tb *tab) until(expression string) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	for {
		_, err := chromedp.Run(ctx, chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingTimeout(patience)))
		if err == nil {
			return
		}
		// A page that loads itself anew takes the question with it.
		if ctx.Err() != nil || !strings.Contains(err.Error(), "navigated") && !strings.Contains(err.Error(), "find context") {
			tb.t.Fatalf("%s is not so: %v", expression, err)
		}
	}
}

// choosesFile has a person choose a file. A page that is drawn anew at that moment has another field in its place.
func (tb *tab) choosesFile(selector, file string) {
	tb.t.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience)
	defer cancel()
	for {
		_, err := chromedp.Run(ctx, chromedp.SetUploadFiles(chromedp.CSS(selector), []string{file}))
		if err == nil {
			return
		}
		if ctx.Err() != nil || !strings.Contains(err.Error(), "Could not find node") {
			tb.t.Fatalf("%s takes no file: %v", selector, err)
		}
	}
}

// leads waits until what a person does has led to another page.
func (tb *tab) leads(does func()) {
	tb.t.Helper()
	run(tb, chromedp.WaitEvent(page.LoadEventFired, func(page.EventLoadEventFired) bool { return true },
		func(context.Context, *chromedp.Target) (chromedp.Void, error) {
			does()
			return chromedp.Void{}, nil
		}))
}

// fill puts a text into a field in place of what it has, as pasting does.
func (tb *tab) fill(selector, text string) {
	tb.t.Helper()
	run(tb, chromedp.Focus(chromedp.CSS(selector)))
	eval[any](tb, fmt.Sprintf(`document.activeElement.value = %q, document.activeElement.dispatchEvent(new InputEvent("input", { bubbles: true })), null`, text))
}

// want compares what the page says of an expression.
func want[T comparable](tb *tab, expression string, value T) {
	tb.t.Helper()
	if got := eval[T](tb, expression); got != value {
		tb.t.Errorf("%s is %v, want %v", expression, got, value)
	}
}

// keys presses keys: text, or one of package kb. What a page does about a key keeps the key's letter from being typed,
// as with a real keyboard.
func (tb *tab) keys(keys ...string) {
	tb.t.Helper()
	for _, r := range strings.Join(keys, "") {
		events := kb.Encode(r)
		if len(events) == 3 { // down, its letter, up
			events[0].Text, events[0].UnmodifiedText = events[1].Text, events[1].UnmodifiedText
			events = slices.Delete(events, 1, 2)
		}
		for _, e := range events {
			call(tb, input.DispatchKeyEvent, *e)
		}
	}
}

// requests are the URLs that were asked, without the origin.
func (tb *tab) requests() []string {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	var paths []string
	for _, url := range tb.asked {
		paths = append(paths, strings.TrimPrefix(url, origin+base))
	}
	return paths
}

// fits fails the test if the page is wider than the screen.
func (tb *tab) fits(width int64) {
	tb.t.Helper()
	if wide := tb.sticksOut(width); wide != "" {
		tb.t.Errorf("at %d px the page is %s", width, wide)
	}
}

// sticksOut says how wide the page is where it is wider than the screen, and names what makes it so. What a box of its
// own scrolls does not.
func (tb *tab) sticksOut(width int64) string {
	tb.t.Helper()
	tb.resize(width, 900)
	// innerWidth is no measure: a telephone makes it as wide as the page.
	return eval[string](tb, fmt.Sprintf(`new Promise((done) => requestAnimationFrame(() => {
		const page = document.documentElement, width = %d;
		if (page.scrollWidth <= width) return done("");
		const scrolls = (e) => e && (["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
		const out = [...document.body.querySelectorAll("*")].filter((e) => e.getBoundingClientRect().right > width + 1 && !scrolls(e));
		done(page.scrollWidth + " px: " + out.slice(0, 5).map((e) => e.outerHTML.slice(0, 80)).join(" | "));
	}))`, width))
}

// axe is the source of axe-core.
var axe = sync.OnceValues(func() (string, error) {
	file, err := os.Open(filepath.Join("testdata", "axe.min.js.gz"))
	if err != nil {
		return "", err
	}
	defer file.Close()
	r, err := gzip.NewReader(file)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(r)
	return string(text), err
})

// accessible fails the test for each violation of what axe-core checks, or of some of its rules.
func (tb *tab) accessible(rules ...string) {
	tb.t.Helper()
	for _, v := range tb.violations(rules...) {
		tb.t.Error(v)
	}
}

// violations are what axe-core finds, each with up to three elements.
func (tb *tab) violations(rules ...string) (found []string) {
	tb.t.Helper()
	source, err := axe()
	if err != nil {
		tb.t.Fatal(err)
	}
	eval[any](tb, `if (!globalThis.axe) {`+source+`}; null`)
	options, least := `{ resultTypes: ["violations"] }`, 10
	if rules != nil {
		list, _ := json.Marshal(rules) // of texts
		options, least = fmt.Sprintf(`{ resultTypes: ["violations"], runOnly: { type: "rule", values: %s } }`, list), 1
	}
	result := eval[struct {
		Violations []struct {
			ID, Help string
			Nodes    []struct{ HTML, FailureSummary string }
		}
		Passes int
	}](tb, `axe.run(document, `+options+`).then((r) => ({ violations: r.violations, passes: r.passes.length }))`)
	if result.Passes < least {
		tb.t.Errorf("axe-core has hardly looked: %d rules passed", result.Passes)
	}
	for _, v := range result.Violations {
		for i, n := range v.Nodes {
			if i == 3 {
				found = append(found, fmt.Sprintf("%s: and %d more", v.ID, len(v.Nodes)-i))
				break
			}
			found = append(found, fmt.Sprintf("%s: %s\n%.300s\n%s", v.ID, v.Help, n.HTML, n.FailureSummary))
		}
	}
	return found
}

// weight is what the requests so far cost, in bytes: as they are, and as a host sends them, which compresses text.
func (tb *tab) weight() (plain, sent int) {
	tb.t.Helper()
	for _, asked := range slices.Compact(slices.Sorted(slices.Values(tb.requests()))) {
		content, err := os.ReadFile(filepath.Join(directory, filepath.FromSlash(asked)))
		if err != nil {
			tb.t.Error(err)
			continue
		}
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		_, _ = w.Write(content) // to a Buffer
		_ = w.Close()
		plain += len(content)
		sent += min(len(content), packed.Len())
	}
	return plain, sent
}

// paths are those of the site's pages.
func paths(t *testing.T) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(directory, func(name string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(name) == ".html" {
			within, _ := filepath.Rel(directory, name) // it is within
			all = append(all, filepath.ToSlash(within))
		}
		return err
	})
	if err != nil || len(all) < 20 {
		t.Fatalf("%d pages in %s: %v; run make site-test", len(all), directory, err)
	}
	return all
}

// shoot writes what the tab shows to the directory that MESH_TEST_SHOTS names, for a person to look at.
func (tb *tab) shoot(name string) {
	tb.t.Helper()
	dir := os.Getenv("MESH_TEST_SHOTS")
	if dir == "" {
		return
	}
	picture := run(tb, chromedp.CaptureScreenshot())
	if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
		tb.t.Error(err)
	}
}

//go:build browser && linux

package browser_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/mesh-intercept/intercept/site/answer"
	"github.com/mesh-intercept/intercept/testing/netlab"
)

// supportDocument is what mesh-init support writes in a namespace that has our rules, which have counted, and a chain of
// somebody else's.
func supportDocument(t *testing.T) string {
	t.Helper()
	netlab.Require(t)
	netlab.RequireProgram(t, "ip")
	netlab.RequireProgram(t, "nft")
	program := filepath.Join(t.TempDir(), "mesh-init")
	build := exec.Command("go", "build", "-C", filepath.Join("..", ".."), "-o", program, "./cmd/mesh-init")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ns, err := netlab.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	var out strings.Builder
	setUp := exec.Command("sh", "-ec", `
		ip link set lo up
		ip link add eth0 type veth peer name peer0
		ip link set peer0 up
		ip addr add 10.244.0.5/24 dev eth0
		ip link set eth0 up
		nft add table ip acme
		nft add chain ip acme guard '{ type filter hook output priority 0; }'
		nft add rule ip acme guard tcp dport 9 drop`)
	setUp.Stdout, setUp.Stderr = &out, &out
	if err := ns.Start(setUp, nil); err != nil {
		t.Fatal(err)
	}
	if err := setUp.Wait(); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if text, err := exec.Command(program, "apply", "-n", ns.Path(), "--outbound-exclude-ports", "5432", "--dns", "all").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if err := ns.Do(func() error {
		// Nobody listens at the proxy's port, so this is refused at once: by ourselves, which shows that it was redirected.
		_, err := (&net.Dialer{Timeout: time.Minute}).DialContext(context.Background(), "tcp", "10.244.0.9:443")
		if err == nil || !strings.Contains(err.Error(), "refused") {
			return fmt.Errorf("a connection to a proxy that does not listen: %w", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	text, err := exec.Command(program, "support", "-n", ns.Path()).Output()
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return string(text)
}

// TestPlaygroundNode: a support document that is dropped on the page, or chosen, shows that pod, and packets are asked
// against what was in force there.
func TestPlaygroundNode(t *testing.T) {
	text := supportDocument(t)
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
					for (const type of ["dragenter", "dragover", "drop"]) document.body.dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: transfer }));
				})(new DataTransfer())`, quoted))
			} else {
				run(tb, chromedp.SetUploadFiles("#file", []string{file}))
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
			want(tb, `[...document.querySelectorAll(".map .foreign .name")].map((e) => e.textContent).join()`, "guard")
			for _, words := range []string{support.Summary, "guard", "10.244.0.5"} {
				want(tb, fmt.Sprintf(`document.querySelector("#panel-node .node").textContent.includes(%q)`, words), true)
			}
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
		run(tb, chromedp.SetUploadFiles("#file", []string{other}))
		said := native[answer.Failure](t, object{"op": "support", "text": `{"a": 1}`}).Error.Text
		tb.until(fmt.Sprintf(`document.querySelector("#panel-node [role=alert]")?.textContent.includes(%q)`, said))
		tb.answered("pass", "I6")
	})
}

package playground_test

import (
	"encoding/json"
	"maps"
	"regexp"
	"strings"
	"testing"

	"github.com/mesh-intercept/intercept/site/internal/playground"
)

func files() map[string][]byte {
	return map[string][]byte{
		"index.html":                   []byte("the front page"),
		"site.css":                     []byte("p {}"),
		"other.css":                    []byte("q {}"),
		"playground/index.html":        []byte(`<link rel="stylesheet" href="../site.css"><script src="app.js"></script>`),
		"playground/app.js":            []byte(`import first from "./first.js";`),
		"playground/intercept.wasm":    []byte("large"),
		"playground/intercept.wasm.gz": []byte("small"),
		"playground/first.json":        []byte(`[{"request": {"op": "schema"}, "without": ["document"]}]`),
		"playground/sw.js":             []byte("const version = \"development\";\nconst files = [];\n"),
	}
}

func ask(request []byte) []byte {
	if string(request) != `{"op": "schema"}` {
		return []byte(`{"error":{"text":"no such question"}}`)
	}
	return []byte(`{"fields":["</script>"],"document":{}}`)
}

func finished(t *testing.T, change func(map[string][]byte)) (keeper string, all map[string][]byte) {
	t.Helper()
	all = files()
	change(all)
	if err := playground.Finish(all, ask); err != nil {
		t.Fatal(err)
	}
	return string(all["playground/sw.js"]), all
}

func TestFinish(t *testing.T) {
	keeper, all := finished(t, func(map[string][]byte) {})
	const first = `export default [{"request":{"op":"schema"},"response":{"fields":["\u003c/script\u003e"]}}];` + "\n"
	if got := string(all["playground/first.js"]); got != first {
		t.Errorf("first.js is %s", got)
	}
	if _, is := all["playground/first.json"]; is {
		t.Error("the questions are part of the site")
	}
	list := regexp.MustCompile(`const files = (.*);`).FindStringSubmatch(keeper)
	var kept []string
	if err := json.Unmarshal([]byte(list[1]), &kept); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(kept, " "); got != "./app.js ./first.js ./ ./intercept.wasm.gz ../site.css" {
		t.Errorf("the service worker keeps %s", got)
	}
}

// TestVersion: the version is another one if a file that is kept is, and only then.
func TestVersion(t *testing.T) {
	same, _ := finished(t, func(map[string][]byte) {})
	for _, name := range []string{
		"playground/app.js", "playground/index.html", "playground/intercept.wasm.gz", "site.css",
	} {
		if other, _ := finished(t, func(all map[string][]byte) { all[name] = append(all[name], ' ') }); other == same {
			t.Errorf("another %s is the same version", name)
		}
	}
	for _, name := range []string{"index.html", "other.css", "playground/intercept.wasm"} {
		if other, _ := finished(t, func(all map[string][]byte) { all[name] = append(all[name], ' ') }); other != same {
			t.Errorf("another %s is another version", name)
		}
	}
}

func TestFinishErrors(t *testing.T) {
	for want, change := range map[string]func(map[string][]byte){
		"first.json: ": func(all map[string][]byte) { all["playground/first.json"] = []byte("[") },
		"no such question": func(all map[string][]byte) {
			all["playground/first.json"] = []byte(`[{"request": {"op": "x"}}]`)
		},
		"no field x": func(all map[string][]byte) {
			all["playground/first.json"] = []byte(`[{"request": {"op": "schema"}, "without": ["x"]}]`)
		},
		"there is no site.css": func(all map[string][]byte) { delete(all, "site.css") },
		"sw.js has 0 times":    func(all map[string][]byte) { all["playground/sw.js"] = nil },
	} {
		all := maps.Clone(files())
		change(all)
		if err := playground.Finish(all, ask); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

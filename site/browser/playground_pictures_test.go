//go:build browser

package browser_test

import (
	"bytes"
	"cmp"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"
)

// TestPlaygroundPictures: the pictures of the documentation are of this page. MESH_TEST_UPDATE=1 takes them anew: fonts
// differ from machine to machine, so they are not compared.
func TestPlaygroundPictures(t *testing.T) {
	desktop := screen{width: 1280, height: 900}
	views := []struct {
		name   string
		screen screen
		show   func(tb *tab)
	}{
		{"probe", desktop, func(*tab) {}},
		{"probe-dark", screen{width: 1280, height: 900, dark: true}, func(*tab) {}},
		{"phone", screen{width: 390, height: 1100}, func(*tab) {}},
		{"service", desktop, func(tb *tab) {
			tb.click(`#scenarios [value="service"]`)
			tb.answered("redirect(15001)", "O12")
			tb.do(`document.getElementById("answer").scrollIntoView()`)
		}},
		{"rejected", screen{width: 1280, height: 900, dark: true}, func(tb *tab) {
			tb.choose("#preset", "strict")
			tb.click(`#scenarios [value="quic"]`)
			tb.answered("reject", "reject/O13.O12")
			tb.do(`document.getElementById("answer").scrollIntoView()`)
		}},
		{"traffic", desktop, func(tb *tab) { view(tb, "matrix", ".part") }},
		{"rules", desktop, func(tb *tab) { view(tb, "rules", ".l.lit") }},
		{"compare", desktop, func(tb *tab) {
			tb.choose("#preset", "strict")
			view(tb, "diff", ".change")
		}},
	}
	for _, v := range views {
		t.Run(v.name, func(t *testing.T) {
			file := filepath.Join("..", "..", "docs", "img", "playground-"+v.name+".png")
			if os.Getenv("MESH_TEST_UPDATE") == "" {
				if _, err := os.Stat(file); err != nil {
					t.Errorf("%v: MESH_TEST_UPDATE=1 takes it", err)
				}
				return
			}
			tb := play(t, v.screen)
			tb.ready()
			v.show(tb)
			small, err := fewColours(run(tb, chromedp.CaptureScreenshot()))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, small, 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// view opens a view and waits until it shows something.
func view(tb *tab, name, what string) {
	tb.t.Helper()
	tb.click("#tab-" + name)
	tb.until(`document.querySelector("#panel-` + name + ` ` + what + `")`)
	tb.do(`document.getElementById("views").scrollIntoView(); scrollBy(0, -70)`)
}

// fewColours is a PNG with its 256 most frequent colours alone, which is a third as large: a page has hardly more.
func fewColours(content []byte) ([]byte, error) {
	from, err := png.Decode(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	often := map[color.RGBA]int{}
	bounds := from.Bounds()
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			often[color.RGBAModel.Convert(from.At(x, y)).(color.RGBA)]++
		}
	}
	all := slices.SortedFunc(maps.Keys(often), func(a, b color.RGBA) int {
		return cmp.Or(cmp.Compare(often[b], often[a]), cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B))
	})
	var palette color.Palette
	for _, c := range all[:min(len(all), 256)] {
		palette = append(palette, c)
	}
	to := image.NewPaletted(bounds, palette)
	draw.Draw(to, bounds, from, bounds.Min, draw.Src)
	var out bytes.Buffer
	err = (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, to)
	return out.Bytes(), err
}

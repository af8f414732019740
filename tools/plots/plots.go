package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// width and height are those of every picture. On a page it is as wide as the text.
const width, height = 7.5 * vg.Inch, 4.4 * vg.Inch

// A backend has its colour in every picture: one of those that people tell apart who see few (Okabe and Ito).
type backend struct {
	name  string
	color color.RGBA
}

func backends() []backend {
	return []backend{
		{"nft", color.RGBA{0, 114, 178, 255}},
		{"iptables-nft", color.RGBA{213, 94, 0, 255}},
		{"iptables-legacy", color.RGBA{0, 128, 96, 255}},
	}
}

func grey(level uint8) color.RGBA { return color.RGBA{level, level, level, 255} }

// peer is a mesh whose rules were measured.
type peer struct{ key, label string }

func peers() []peer {
	return []peer{
		{"istio-nft", "Istio, nftables"},
		{"istio-iptables-legacy", "Istio, iptables-legacy"},
		{"istio-iptables-nft", "Istio, iptables-nft"},
		{"linkerd", "Linkerd"},
		{"kuma", "Kuma"},
	}
}

// applies are the whole runs that were measured of everybody.
func applies() []peer {
	return []peer{
		{"default", "default rules"}, {"again", "the same again, unchanged"}, {"5000", "5,000 excluded networks"}}
}

// newPlot has what all pictures have. The background is painted: what shows it may be dark.
func newPlot(title string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text = title
	p.Title.Padding = vg.Points(8)
	for style, size := range map[*text.Style]vg.Length{
		&p.Title.TextStyle: 14, &p.X.Label.TextStyle: 11, &p.Y.Label.TextStyle: 11,
		&p.X.Tick.Label: 10, &p.Y.Tick.Label: 10, &p.Legend.TextStyle: 10,
	} {
		style.Font = sans(size)
	}
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.Padding = vg.Points(8), vg.Points(2)
	p.Legend.ThumbnailWidth = vg.Points(26)
	p.X.Label.Padding, p.Y.Label.Padding, p.Y.Tick.Length = vg.Points(4), vg.Points(8), vg.Points(5)
	return p
}

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

// canvas remembers how wide each text is in the font that the picture is laid out for.
type canvas struct {
	*vgsvg.Canvas
	widths []vg.Length
}

// FillString writes a text.
func (c *canvas) FillString(face font.Face, at vg.Point, s string) {
	c.widths = append(c.widths, face.Width(s))
	c.Canvas.FillString(face, at, s)
}

// svg writes a picture, in fonts that readers have. Whichever it is, a text is as wide as the picture is laid out for.
func svg(p *plot.Plot) ([]byte, error) {
	c := &canvas{Canvas: vgsvg.New(width, height)}
	const margin = 6
	p.Draw(draw.Crop(draw.New(c), margin, -4*margin, margin, -margin)) // half a label is right of an axis
	var all strings.Builder
	if _, err := c.WriteTo(&all); err != nil {
		return nil, err
	}
	const begin = "<text "
	parts := strings.Split(strings.ReplaceAll(all.String(), "font-family:Liberation Sans;",
		"font-family:Liberation Sans,Arial,Helvetica,sans-serif;"), begin)
	var b bytes.Buffer
	b.WriteString(parts[0])
	for i, part := range parts[1:] {
		fmt.Fprintf(&b, `%stextLength="%.5g" lengthAdjust="spacingAndGlyphs" %s`, begin, c.widths[i].Points(), part)
	}
	return b.Bytes(), nil
}

// none is where on a logarithmic axis of lengths no length at all is.
const none = 20

// Axes are logarithmic by what is put on them: [plot.LogScale] has no place for the label of an axis.
func ticks(label func(float64) string, values ...float64) (all plot.ConstantTicks) {
	for _, v := range values {
		all = append(all, plot.Tick{Value: math.Log10(v), Label: label(v)})
	}
	return all
}

// number writes a number with commas.
func number(v float64) string {
	s := strconv.FormatFloat(v, 'f', -1, 64)
	if v >= 1000 {
		return s[:len(s)-3] + "," + s[len(s)-3:]
	}
	return s
}

func multiple(v float64) string { return "×" + number(v) }

// byLength makes the x axis that of a list's length.
func byLength(p *plot.Plot, lengths ...float64) {
	p.X.Label.Text = "networks excluded, half of them IPv4 and half IPv6"
	p.X.Tick.Marker = append(plot.ConstantTicks{{Value: math.Log10(none), Label: "none"}}, ticks(number, lengths...)...)
}

// multiples makes the y axis one of multiples, with a line at each tick, and room for the legend above.
func multiples(p *plot.Plot, label string, values ...float64) {
	p.Y.Label.Text = label
	p.Y.Tick.Marker = ticks(multiple, values...)
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = grey(225)
	p.Add(grid)
	p.Y.Min, p.Y.Max = math.Log10(values[0]), math.Log10(values[len(values)-1])
}

// add draws a figure over lengths. A key has a %d for the length.
func add(p *plot.Plot, f figures, label, key string, c color.Color, dashes []vg.Length, lengths ...int) error {
	var points plotter.XYs
	for _, n := range lengths {
		v, err := f.get(fmt.Sprintf(key, n))
		if err != nil {
			return err
		}
		points = append(points, plotter.XY{X: math.Log10(max(none, float64(n))), Y: math.Log10(v)})
	}
	line, dots, err := plotter.NewLinePoints(points)
	if err != nil {
		return err
	}
	line.Color, line.Width, line.Dashes = c, vg.Points(1.6), dashes
	dots.Color, dots.Shape, dots.Radius = c, draw.CircleGlyph{}, vg.Points(2.4)
	p.Add(line, dots)
	p.Legend.Add(label, line)
	return nil
}

// applyPlot is what an apply costs over the number of exclusions, by backend.
func applyPlot(ours, _ figures) ([]byte, error) {
	p := newPlot("mesh-init apply, the whole run")
	byLength(p, 100, 1000, 5000, 50_000)
	multiples(p, "times as long as a Go hello world", 1, 2, 5, 10, 20, 50, 100, 200, 500)
	for _, b := range backends() {
		key := "Exclusions/backend=" + b.name + "/n=%d "
		for _, run := range []struct {
			what, unit string
			dashes     []vg.Length
		}{{": first apply", "x-hello", nil}, {": unchanged", "again-x-hello", []vg.Length{4, 3}}} {
			err := add(p, ours, b.name+run.what, key+run.unit, b.color, run.dashes, 0, 100, 1000, 5000, 50_000)
			if err != nil {
				return nil, err
			}
		}
	}
	return svg(p)
}

// connectionPlot is what a new connection costs over the number of exclusions, ours by backend and Istio's.
func connectionPlot(ours, theirs figures) ([]byte, error) {
	p := newPlot("A new connection through the redirect, IPv4")
	byLength(p, 100, 1000, 5000)
	multiples(p, "times as long as with one bare redirect rule", 0.8, 1, 1.5, 2, 3, 5, 10)
	for _, b := range backends() {
		err := add(p, ours, "Intercept, "+b.name, "NewConnection/"+b.name+"/IPv4/n=%d x-bare", b.color, nil,
			0, 100, 1000, 5000)
		if err != nil {
			return nil, err
		}
	}
	for i, s := range peers()[:3] {
		err := add(p, theirs, s.label, "Peer/"+s.key+"/connection/n=%d x-bare", grey(90+uint8(30*i)), []vg.Length{5, 3},
			0, 100, 1000, 5000)
		if err != nil {
			return nil, err
		}
	}
	return svg(p)
}

// peerPlot is what whole runs cost, ours by backend and other meshes'. Each is in multiples of a hello world of its own
// run.
func peerPlot(ours, theirs figures) ([]byte, error) {
	var labels []string
	values := make([][]float64, len(applies())) // of each kind of run one for each label
	for _, b := range backends() {
		labels = append(labels, "Intercept, "+b.name)
		for i, key := range []string{"n=0 x-hello", "n=0 again-x-hello", "n=5000 x-hello"} {
			v, err := ours.get("Exclusions/backend=" + b.name + "/" + key)
			if err != nil {
				return nil, err
			}
			values[i] = append(values[i], v)
		}
	}
	hello, err := theirs.get("Peer/hello/default ms")
	if err != nil {
		return nil, err
	}
	for _, s := range peers() {
		labels = append(labels, s.label)
		for i, what := range applies() {
			ms, err := theirs.get("Peer/" + s.key + "/" + what.key + " ms")
			if err != nil {
				return nil, err
			}
			values[i] = append(values[i], ms/hello)
		}
	}
	p, err := bars(labels, values)
	if err != nil {
		return nil, err
	}
	return svg(p)
}

// bars draws a group of bars for each label, the first above.
func bars(labels []string, values [][]float64) (*plot.Plot, error) {
	p := newPlot("Applying the rules, the whole run")
	p.X.Tick.Marker = ticks(multiple, 1, 10, 100, 1000, 10_000)
	p.X.Label.Text = "times as long as a Go hello world: smaller is better"
	grid := plotter.NewGrid()
	grid.Horizontal.Width = 0
	grid.Vertical.Color = grey(225)
	p.Add(grid)
	n := len(labels)
	names := make(plot.ConstantTicks, n)
	for i, label := range labels {
		names[i] = plot.Tick{Value: float64(n - 1 - i), Label: label + "  "}
	}
	p.Y.Tick.Marker, p.Y.Tick.Length, p.Y.LineStyle.Width = names, 0, 0
	const thick = 7.5
	for i, of := range applies() {
		lengths := make(plotter.Values, n)
		ends := plotter.XYLabels{XYs: make(plotter.XYs, n), Labels: make([]string, n)}
		for j, v := range values[i] {
			at := n - 1 - j
			lengths[at] = math.Log10(v)
			ends.XYs[at], ends.Labels[at] = plotter.XY{X: lengths[at], Y: float64(at)}, multiple(rounded(v))
		}
		chart, err := plotter.NewBarChart(lengths, vg.Points(thick))
		if err != nil {
			return nil, err
		}
		chart.Horizontal, chart.LineStyle.Width = true, 0
		chart.Color = []color.RGBA{{0, 63, 110, 255}, {86, 150, 200, 255}, {230, 159, 0, 255}}[i]
		chart.Offset = vg.Points(thick * float64(1-i))
		numbers, err := plotter.NewLabels(ends)
		if err != nil {
			return nil, err
		}
		numbers.Offset = vg.Point{X: 3, Y: chart.Offset - vg.Points(2.6)}
		for j := range numbers.TextStyle {
			numbers.TextStyle[j].Font = sans(7.5)
		}
		p.Add(chart, numbers)
		p.Legend.Add(of.label, chart)
	}
	p.X.Min, p.X.Max = 0, 4
	p.Y.Min, p.Y.Max = -0.6, float64(n)-0.4
	p.Legend.XOffs = 0.38 * width
	return p, nil
}

// rounded is a multiple of two digits.
func rounded(v float64) float64 {
	digits := math.Pow(10, math.Floor(math.Log10(v))-1)
	if digits < 1 {
		return math.Round(v*10) / 10
	}
	return math.Round(v/digits) * digits
}

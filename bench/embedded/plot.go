package main

import (
	"image/color"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// colors of the engines, in their order; told apart without red and green (Okabe and Ito).
var colors = []color.RGBA{
	{0, 114, 178, 255}, {230, 159, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {86, 180, 233, 255}, {90, 90, 90, 255},
}

// plots draws what grows with the number of keys.
func (r *report) plots() error {
	base := strings.TrimSuffix(r.options.out, ".md")
	if err := r.plot(base+"-get.svg", "Gets of random keys, 1 goroutine", "gets per second", func(p point) float64 { return p.GetPerSecond }); err != nil {
		return err
	}
	return r.plot(base+"-memory.svg", "Memory after opening", "MiB", func(p point) float64 {
		return max(p.MemoryPerKey*float64(p.keys)/(1<<20), 0.01) // the axis is logarithmic
	})
}

func (r *report) plot(name, title, unit string, of func(point) float64) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "keys", unit
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.LogTicks{Prec: -1}, plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	for i, e := range engines {
		var line plotter.XYs
		for _, at := range r.growth[e.name] {
			line = append(line, plotter.XY{X: float64(at.keys), Y: of(at)})
		}
		l, dots, err := plotter.NewLinePoints(line)
		if err != nil {
			return err
		}
		l.Color, dots.Color, l.Width = colors[i], colors[i], vg.Points(1.5)
		p.Add(l, dots)
		p.Legend.Add(e.name, l, dots)
	}
	return p.Save(14*vg.Centimeter, 10*vg.Centimeter, name)
}

package server

import (
	"slices"
	"strings"
	"sync"

	metrics "github.com/hashicorp/go-metrics/compat"
	"github.com/prometheus/client_golang/prometheus"
)

// raftSink bridges the metrics of raft and memberlist into a Prometheus registry:
// a metrics.MetricSink on one side, a prometheus.Collector on the other.
//
// Both libraries report through go-metrics' compat package, which a build tag
// points at one of two modules with the same interface; so does this file. Names keep their spelling with
// underscores for dots (raft_commitTime), as in the dashboards of other programs that use raft. Times are in
// milliseconds. Samples become histograms, not summaries: observing one takes no lock, and histograms of several nodes can be added up.
type raftSink struct {
	mu sync.RWMutex
	// mu guards the maps; the metrics themselves are safe to use without it.
	gauges     map[string]prometheus.Gauge
	counters   map[string]prometheus.Counter
	histograms map[string]prometheus.Histogram
	kinds      map[string]string // name to type
}

// maxSeries bounds the bridge. Raft's names hold the ids of peers, and a cluster
// may see many in the life of a process; about 120 series belong to a cluster of 3.
const maxSeries = 2000

// sampleBuckets suit milliseconds from a quick fsync to a stalled one, and also
// the counts that raft reports as samples.
var sampleBuckets = []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 10000}

func newRaftSink() *raftSink {
	return &raftSink{
		gauges:     make(map[string]prometheus.Gauge),
		counters:   make(map[string]prometheus.Counter),
		histograms: make(map[string]prometheus.Histogram),
		kinds:      make(map[string]string),
	}
}

// install makes the sink the one of the process: the libraries know no other.
func (s *raftSink) install() error {
	cfg := metrics.DefaultConfig("")
	cfg.EnableHostname = false
	cfg.EnableRuntimeMetrics = false // the registry has its own collector of them
	_, err := metrics.NewGlobal(cfg, s)
	return err
}

// Describe implements prometheus.Collector. It announces nothing, because the
// names come with the events.
func (s *raftSink) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (s *raftSink) Collect(to chan<- prometheus.Metric) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, m := range s.gauges {
		m.Collect(to)
	}
	for _, m := range s.counters {
		m.Collect(to)
	}
	for _, m := range s.histograms {
		m.Collect(to)
	}
}

// SetGauge, IncrCounter, AddSample and their variants implement metrics.MetricSink.
func (s *raftSink) SetGauge(key []string, val float32) { s.SetGaugeWithLabels(key, val, nil) }

// SetGaugeWithLabels sets a gauge.
func (s *raftSink) SetGaugeWithLabels(key []string, val float32, labels []metrics.Label) {
	if g, ok := series(s, "gauge", s.gauges, key, labels, func(o prometheus.Opts) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts(o))
	}); ok {
		g.Set(float64(val))
	}
}

// EmitKey counts an event: Prometheus has no log of single values.
func (s *raftSink) EmitKey(key []string, _ float32) { s.IncrCounterWithLabels(key, 1, nil) }

// IncrCounter adds to a counter.
func (s *raftSink) IncrCounter(key []string, val float32) { s.IncrCounterWithLabels(key, val, nil) }

// IncrCounterWithLabels adds to a counter.
func (s *raftSink) IncrCounterWithLabels(key []string, val float32, labels []metrics.Label) {
	if val < 0 {
		return // a Prometheus counter would panic
	}
	if c, ok := series(s, "counter", s.counters, key, labels, func(o prometheus.Opts) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(o))
	}); ok {
		c.Add(float64(val))
	}
}

// AddSample observes a value, mostly a time in milliseconds.
func (s *raftSink) AddSample(key []string, val float32) { s.AddSampleWithLabels(key, val, nil) }

// AddSampleWithLabels observes a value, mostly a time in milliseconds.
func (s *raftSink) AddSampleWithLabels(key []string, val float32, labels []metrics.Label) {
	if h, ok := series(s, "histogram", s.histograms, key, labels, func(o prometheus.Opts) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: o.Name, Help: o.Help, ConstLabels: o.ConstLabels, Buckets: sampleBuckets,
		})
	}); ok {
		h.Observe(float64(val))
	}
}

// series returns the metric for key and labels, made when it is first seen. It
// reports false when there are too many, or when the name has another type already: a conflict would make
// the whole page fail.
func series[M prometheus.Metric](s *raftSink, kind string, of map[string]M, key []string, labels []metrics.Label, create func(prometheus.Opts) M) (m M, ok bool) {
	name := promName(strings.Join(key, "_"))
	id := seriesID(name, labels)
	s.mu.RLock()
	m, ok = of[id]
	s.mu.RUnlock()
	if ok {
		return m, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok = of[id]; ok {
		return m, true
	}
	if before, taken := s.kinds[name]; taken && before != kind {
		return m, false
	}
	if len(s.gauges)+len(s.counters)+len(s.histograms) >= maxSeries {
		return m, false
	}
	constant := make(prometheus.Labels, len(labels))
	for _, l := range labels {
		constant[promName(l.Name)] = l.Value
	}
	s.kinds[name] = kind
	m = create(prometheus.Opts{Name: name, Help: strings.Join(key, "."), ConstLabels: constant})
	of[id] = m
	return m, true
}

func seriesID(name string, labels []metrics.Label) string {
	if len(labels) == 0 {
		return name
	}
	var b strings.Builder
	b.WriteString(name)
	sorted := slices.Clone(labels)
	slices.SortFunc(sorted, func(a, b metrics.Label) int { return strings.Compare(a.Name, b.Name) })
	for _, l := range sorted {
		b.WriteString("\x00" + l.Name + "\x00" + l.Value)
	}
	return b.String()
}

// promName replaces what Prometheus does not allow in a name.
func promName(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, name)
}

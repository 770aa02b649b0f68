package server

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/raftcask/raftcask/command"
)

// newRegistry returns a registry with what every Go process has to tell.
func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return registry
}

// outcome of a command, as a label.
type outcome int

const (
	outcomeOK      outcome = iota
	outcomeError           // the command was wrong, or its key or value
	outcomeRefused         // definitely not applied; may be sent again
	outcomeUnknown         // a write that may or may not have been applied
	outcomes
)

var outcomeNames = [outcomes]string{"ok", "error", "refused", "unknown"}

func outcomeOf(r *command.Reply) outcome {
	if !r.IsErr() {
		return outcomeOK
	}
	code, _, _ := strings.Cut(r.Text(), " ")
	switch code {
	case "UNKNOWN":
		return outcomeUnknown
	case "TRYAGAIN", "CLUSTERDOWN":
		return outcomeRefused
	}
	return outcomeError
}

// commandMetrics counts commands where clients sent them. The counters are looked
// up once: a lookup by label would cost more than many a command.
type commandMetrics struct {
	bySpec map[*command.Spec]*[outcomes]prometheus.Counter
	reads  prometheus.Observer
	writes prometheus.Observer
	total  atomic.Uint64
}

func newCommandMetrics(registry prometheus.Registerer) *commandMetrics {
	counters := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "raftcask_commands_total",
		Help: "Data commands from clients of this node, by name and outcome.",
	}, []string{"command", "outcome"})
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "raftcask_batch_seconds",
		Help: "Time from reading a connection's pipelined commands to having all replies; kind is write when one of them is a write.",
		// A read on loopback takes 50 µs; the budget of a batch is about 2 s.
		Buckets: prometheus.ExponentialBuckets(0.00005, 2, 17),
	}, []string{"kind"})
	registry.MustRegister(counters, seconds)

	m := &commandMetrics{
		bySpec: make(map[*command.Spec]*[outcomes]prometheus.Counter),
		reads:  seconds.WithLabelValues("read"),
		writes: seconds.WithLabelValues("write"),
	}
	for _, spec := range command.All() {
		if !spec.Class.Data() {
			continue
		}
		var each [outcomes]prometheus.Counter
		for o := range each {
			each[o] = counters.WithLabelValues(spec.Name, outcomeNames[o])
		}
		m.bySpec[spec] = &each
	}
	return m
}

// observe counts a batch and its outcomes.
func (m *commandMetrics) observe(calls []command.Call, replies []command.Reply, took time.Duration) {
	m.total.Add(uint64(len(calls)))
	kind := m.reads
	for i := range calls {
		if calls[i].Spec.Class == command.Write {
			kind = m.writes
		}
		if counters, ok := m.bySpec[calls[i].Spec]; ok {
			counters[outcomeOf(&replies[i])].Inc()
		}
	}
	kind.Observe(took.Seconds())
}

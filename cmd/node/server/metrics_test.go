package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metrics "github.com/hashicorp/go-metrics/compat"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/raftcask/raftcask/command"
)

// gather renders a registry as name{label="value"} value, one line each.
func gather(t *testing.T, registry prometheus.Gatherer) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatalf("the page would fail: %v", err)
	}
	var b strings.Builder
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			fmt.Fprintf(&b, "%s{%s} %g\n", f.GetName(), strings.Join(labels, ","), value)
		}
	}
	return b.String()
}

func TestRaftMetricsReachTheRegistry(t *testing.T) {
	registry := prometheus.NewRegistry()
	sink := newRaftSink()
	registry.MustRegister(sink)
	if err := sink.install(); err != nil {
		t.Fatal(err)
	}
	// As raft and memberlist do: through the package, not the sink.
	metrics.SetGauge([]string{"raft", "commitNumLogs"}, 3)
	metrics.IncrCounter([]string{"raft", "apply"}, 2)
	metrics.IncrCounter([]string{"raft", "apply"}, 2)
	metrics.MeasureSince([]string{"raft", "commitTime"}, time.Now())
	metrics.AddSampleWithLabels([]string{"raft", "replication", "appendEntries", "rpc"}, 1.5, []metrics.Label{{Name: "peer_id", Value: "n2"}})
	metrics.AddSample([]string{"raft", "replication", "heartbeat", "n-2.x"}, 1)
	page := gather(t, registry)
	for _, want := range []string{
		"raft_commitNumLogs{} 3", "raft_apply{} 4", "raft_commitTime{} 1",
		`raft_replication_appendEntries_rpc{peer_id="n2"} 1`, "raft_replication_heartbeat_n_2_x{} 1",
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("no line %q in\n%s", want, page)
		}
	}
}

func TestConflictingMetricDoesNotBreakThePage(t *testing.T) {
	registry := prometheus.NewRegistry()
	sink := newRaftSink()
	registry.MustRegister(sink)
	sink.SetGauge([]string{"x", "y"}, 1)
	sink.IncrCounter([]string{"x", "y"}, 1)
	sink.AddSampleWithLabels([]string{"x_y"}, 1, []metrics.Label{{Name: "a", Value: "b"}})
	sink.IncrCounter([]string{"down"}, -1)
	if page := gather(t, registry); page != "x_y{} 1\n" {
		t.Errorf("got\n%s", page)
	}
}

func TestMetricsAreBounded(t *testing.T) {
	sink := newRaftSink()
	for i := range 2 * maxSeries {
		sink.SetGauge([]string{"peer", fmt.Sprint(i)}, 1)
	}
	if n := len(sink.gauges); n != maxSeries {
		t.Errorf("%d series, the bound is %d", n, maxSeries)
	}
}

func TestCommandsAreCountedByOutcome(t *testing.T) {
	registry := prometheus.NewRegistry()
	m := newCommandMetrics(registry)
	batch := calls(t, "GET a; SET a 1; SET a 1; SET a 1; INCR a")
	m.observe(batch, []command.Reply{
		command.Nil(), command.OK(), command.Unknown("x"), command.NotApplied("y"), command.Err("ERR value is not an integer"),
	}, time.Millisecond)
	page := gather(t, registry)
	for _, want := range []string{
		`raftcask_commands_total{command="get",outcome="ok"} 1`,
		`raftcask_commands_total{command="set",outcome="ok"} 1`,
		`raftcask_commands_total{command="set",outcome="unknown"} 1`,
		`raftcask_commands_total{command="set",outcome="refused"} 1`,
		`raftcask_commands_total{command="incr",outcome="error"} 1`,
		`raftcask_batch_seconds{kind="write"} 1`,
	} {
		if !strings.Contains(page, want+"\n") {
			t.Errorf("no line %q", want)
		}
	}
}

func BenchmarkObserveBatch(b *testing.B) {
	m := newCommandMetrics(prometheus.NewRegistry())
	batch := calls(b, "GET a; SET a 1; SET a 1; GET a")
	replies := []command.Reply{command.Nil(), command.OK(), command.OK(), command.OK()}
	b.ReportAllocs()
	for b.Loop() {
		m.observe(batch, replies, time.Millisecond)
	}
}

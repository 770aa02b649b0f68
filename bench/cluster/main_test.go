package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

func TestParseSampleReadsRedisBenchmarkTable(t *testing.T) {
	const out = `WARNING: Could not fetch server CONFIG
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"SET","1309.52","0.751","0.512","0.743","0.911","1.207","3.111"
`
	got, err := parseSample([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	if want := (sample{1309.52, 0.743, 1.207}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestParseSampleRefusesWhatIsNotATable(t *testing.T) {
	for _, out := range []string{
		"",
		"Error from server: CLUSTERDOWN\n",
		`"test","rps"` + "\n",
		`"test","rps","p50_latency_ms"` + "\n" + `"SET","1","2"` + "\n",
		`"test","rps","p50_latency_ms","p99_latency_ms"` + "\n" + `"SET","fast","2","3"` + "\n",
	} {
		if s, err := parseSample([]byte(out)); err == nil {
			t.Errorf("%q was read as %+v", out, s)
		}
	}
}

func TestMedianKeepsTheLatenciesOfItsRound(t *testing.T) {
	got := median([]sample{{300, 3, 30}, {100, 1, 10}, {200, 2, 20}})
	if want := (sample{200, 2, 20}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestReportComparesWithTheTarget(t *testing.T) {
	r := report{
		when:    time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC),
		options: options{rounds: 1, round: time.Second},
		results: []result{
			{workload{"set", 1, 1, 0.3}, []sample{{400, 1, 1}}, []sample{{1000, 1, 1}}},
			{workload{"set", 64, 16, 0.5}, []sample{{400, 1, 1}}, []sample{{1000, 1, 1}}},
			{workload{"get", 16, 1, 0}, []sample{{400, 1, 1}}, []sample{{1000, 1, 1}}},
		},
	}
	text := r.markdown()
	for _, want := range []string{
		"| SET, 1 client | 400 | 1.000 | 1.000 | 1000 | 1.000 | 1.000 | **0.40** | 0.30 | met |",
		"| SET, 64 clients × pipeline 16 | 400 | 1.000 | 1.000 | 1000 | 1.000 | 1.000 | **0.40** | 0.50 | missed |",
		"| GET, 16 clients | 400 | 1.000 | 1.000 | 1000 | 1.000 | 1.000 | **0.40** | – |  |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no line %q in\n%s", want, text)
		}
	}
}

func TestKeysAreThoseOfRedisBenchmark(t *testing.T) {
	if got := key(42); got != "key:000000000042" || len(got) != 16 {
		t.Errorf("key(42) = %q", got)
	}
}

func TestMistakesOnTheCommandLineExitWith2(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"-seconds", "-1"}, {"more"}, {"-no-such-flag"}} {
		if code := run(args, io.Discard, io.Discard); code != 2 {
			t.Errorf("run(%q) = %d, want 2", args, code)
		}
	}
}

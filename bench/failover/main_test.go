package main

import (
	"strings"
	"testing"
	"time"
)

func TestGapIsTheLongestTimeBetweenTwoSuccesses(t *testing.T) {
	l := &load{last: time.Now().Add(-300 * time.Millisecond)}
	before := l.mark()
	l.note(t.Context(), time.Now(), nil)
	g := l.since(before)
	if g.longest < 300*time.Millisecond || g.longest > watch {
		t.Errorf("got %v", g.longest)
	}
	if g = l.since(l.mark()); g.longest < watch {
		t.Errorf("nobody wrote, and the gap is only %v", g.longest)
	}
}

func TestReportTellsWhetherTheTargetsAreMet(t *testing.T) {
	r := &report{
		kills:  []gap{{longest: 900 * time.Millisecond}, {longest: 2 * time.Second, unknown: 3}, {longest: 800 * time.Millisecond}},
		stops:  []gap{{longest: 100 * time.Millisecond}, {longest: 400 * time.Millisecond}},
		steady: steadyRun{length: time.Minute, elections: 1},
	}
	text := r.markdown()
	for _, want := range []string{
		"| kill -9 | 3 | **900 ms** | 800 ms | 2000 ms | 1000 ms | met | 3 | 0 |",
		"| SIGTERM | 2 | **250 ms** | 100 ms | 400 ms | 150 ms | missed | 0 | 0 |",
		"**1 elections** (target 0: missed)",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

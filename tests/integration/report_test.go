package integration

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// report is what a run of the chaos test tells at its end.
type report struct {
	title                string
	begin                time.Time
	faults               map[string]int
	steps, idle          int           // idle: nobody was served during the fault
	gap, gapOfAll        time.Duration // longest wait after healing: for anybody, for every kind
	gapAfter             string
	comparisons, terms   int
	rows                 []row
	operations           int // checked
	violations           []error
	elapsed              time.Duration
	unknown, refused, ok uint64
	phases
}

// row is one kind of traffic.
type row struct {
	kind                         string
	sent, done, unknown, refused uint64
}

func newReport(title string, f *fleet) *report {
	r := &report{title: title, begin: time.Now(), faults: map[string]int{}}
	for _, one := range f.faults {
		r.faults[one.name] = 0
	}
	return r
}

func (r *report) noteFault(chosen []fault, during uint64) {
	r.steps++
	if during == 0 {
		r.idle++
	}
	for _, one := range chosen {
		r.faults[one.name]++
	}
}

func (r *report) noteRecovery(after string, gap, gapOfAll time.Duration) {
	r.gapOfAll = max(r.gapOfAll, gapOfAll)
	if gap > r.gap {
		r.gap, r.gapAfter = gap, after
	}
}

func (r *report) violate(errs ...error) { r.violations = append(r.violations, errs...) }

// end takes the numbers of the traffic.
func (r *report) end(f *traffic, operations int) {
	r.elapsed, r.operations = time.Since(r.begin), operations
	for _, name := range slices.Sorted(maps.Keys(f.counts)) {
		n := f.counts[name]
		line := row{kind: name, sent: n.sent.Load(), done: n.done.Load(), unknown: n.unknown.Load(), refused: n.refused.Load()}
		r.rows = append(r.rows, line)
		r.ok += line.done
		r.unknown += line.unknown
		r.refused += line.refused
	}
}

// checkRates makes a run without traffic fail.
func (r *report) checkRates() {
	if rate := float64(r.ok) / r.elapsed.Seconds(); rate < minRate {
		r.violate(fmt.Errorf("%.1f operations a second, want at least %d: too little traffic to find anything", rate, minRate))
	}
	r.violate(r.phases.check()...)
	for name, n := range r.faults {
		if n == 0 {
			r.violate(fmt.Errorf("the fault %q was never struck", name))
		}
	}
}

// publish prints the report, writes it to a file, and fails the test for each violation.
func (r *report) publish(t testing.TB) {
	t.Helper()
	text := r.String() + fmt.Sprintf("seed           RAFTCASK_SEED=%d\n", seedOf(t))
	where := "not written"
	if dir, err := artifactsDir(); err == nil {
		path := filepath.Join(dir, fmt.Sprintf("report-%s-%s.txt", r.title, r.begin.Format("20060102-150405")))
		if err = os.WriteFile(path, []byte(text), 0o644); err == nil {
			where = path
		}
	}
	t.Logf("report (%s):\n%s", where, text)
	for _, err := range r.violations {
		t.Errorf("violation: %v", err)
	}
}

func (r *report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "chaos          %s, %v\n", r.title, r.elapsed.Round(time.Second))
	fmt.Fprintf(&b, "operations     %d answered (%.0f/s), %d of unknown outcome, %d definitely refused\n", r.ok, float64(r.ok)/r.elapsed.Seconds(), r.unknown, r.refused)
	for _, line := range r.rows {
		fmt.Fprintf(&b, "  %-14s %8d answered, %5d unknown, %6d refused; a second: %.0f quiet, %.0f during faults, %.0f in recovery\n",
			line.kind, line.done, line.unknown, line.refused,
			r.rate(quiet, line.kind), r.rate(struck, line.kind), r.rate(recovery, line.kind))
	}
	struck := 0
	for _, n := range r.faults {
		struck += n
	}
	fmt.Fprintf(&b, "faults         %d in %d steps, in %d of which nobody was served\n", struck, r.steps, r.idle)
	for _, name := range slices.Sorted(maps.Keys(r.faults)) {
		fmt.Fprintf(&b, "  %-30s %d\n", name, r.faults[name])
	}
	fmt.Fprintf(&b, "after healing  the longest wait was %v until anybody was served (after %s), %v until every kind was\n",
		r.gap.Round(time.Millisecond), r.gapAfter, r.gapOfAll.Round(time.Millisecond))
	fmt.Fprintf(&b, "checked        %d operations for linearizability, replicas %d times at one entry, %d terms\n", r.operations, r.comparisons, r.terms)
	fmt.Fprintf(&b, "violations     %d\n", len(r.violations))
	for _, err := range r.violations {
		fmt.Fprintf(&b, "  %v\n", err)
	}
	return b.String()
}
